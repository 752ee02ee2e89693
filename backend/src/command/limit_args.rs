//! Limits as the command line gives them: `iops=500,bps=10M,burst=2s`.

use parse_size::Config;

use crate::worker::limits::{BURST_DEFAULT, Limits};

/// Parses limits, for clap.
pub(super) fn parse_limits(text: &str) -> Result<Limits, String> {
    let mut limits = Limits { burst_ms: BURST_DEFAULT, ..Limits::default() };
    for pair in text.split([',', ' ']).filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(format!("{pair:?} is no limit: say for example iops=500,write-bps=10M,burst=2s"));
        };
        let field = match name {
            "iops" => &mut limits.iops,
            "bps" => &mut limits.bps,
            "read-iops" => &mut limits.read_iops,
            "write-iops" => &mut limits.write_iops,
            "read-bps" => &mut limits.read_bps,
            "write-bps" => &mut limits.write_bps,
            "burst" => {
                limits.burst_ms = parse_burst(value)?;
                continue;
            }
            _ => {
                return Err(format!(
                    "{name:?} is no limit: there are iops, bps, read-iops, write-iops, read-bps, write-bps, and burst"
                ));
            }
        };
        *field = parse_rate(name, value)?;
    }
    limits.check()?;
    Ok(limits)
}

/// A rate: requests with decimal units, bytes with binary ones.
fn parse_rate(name: &str, value: &str) -> Result<u64, String> {
    let config =
        if name.ends_with("bps") { Config::new().with_binary() } else { Config::new().with_decimal() };
    match config.parse_size(value) {
        Ok(0) => Err(format!("{name}=0: leave it out for no limit")),
        Ok(rate) => Ok(rate),
        Err(_) => Err(format!("{name}={value}: give a number, or one with a unit such as 500, 20k or 10M")),
    }
}

/// A time in seconds, or with a unit, in milliseconds.
fn parse_burst(value: &str) -> Result<u64, String> {
    let wrong = || format!("burst={value}: give a time such as 500ms or 2s, of at least 1ms");
    let (number, unit) = match (value.strip_suffix("ms"), value.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1000),
        (None, None) => (value, 1000),
    };
    let burst = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    burst.filter(|burst| *burst > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_units() {
        let limits = parse_limits("iops=20k,write-bps=10M,burst=2s").unwrap();
        let expected = Limits { iops: 20_000, write_bps: 10 << 20, burst_ms: 2000, ..Limits::default() };
        assert_eq!(limits, expected);
        let limits = parse_limits("read-iops=5 read-bps=1 write-iops=7 bps=3 burst=1ms").unwrap();
        assert_eq!((limits.read_iops, limits.read_bps, limits.write_iops), (5, 1, 7));
        assert_eq!((limits.bps, limits.burst_ms), (3, 1));
        assert_eq!(parse_limits("iops=1").unwrap().burst_ms, BURST_DEFAULT);
    }

    #[test]
    fn an_error_names_what_is_wrong() {
        for (text, reason) in [
            ("", "no limit is given"),
            ("burst=1s", "no limit is given"),
            ("iops", "is no limit"),
            ("jops=1", "there are iops"),
            ("iops=0", "leave it out"),
            ("iops=-1", "give a number"),
            ("bps=999999T", "is more than"),
            ("iops=1,burst=0", "at least 1ms"),
            ("iops=1,burst=2h", "give a time"),
            ("iops=1,burst=99999999999999999999", "give a time"),
            ("iops=1,burst=3601", "longer than"),
        ] {
            let error = parse_limits(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
