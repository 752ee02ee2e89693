//! Blocks that a person names.

use std::ops::Range;

use crate::command::check::LbaRange;

/// Parses `5` or `5-9`, for clap.
pub(in crate::command) fn parse_lbas(text: &str) -> Result<LbaRange, &'static str> {
    const CURE: &str = "no LBA: give a block such as 5, or the first and the last of some, such as 5-9";
    let number = |text: &str| text.parse::<u64>().map_err(|_| CURE);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first_lba, last_lba) = (number(first)?, number(last)?);
    if first_lba > last_lba || last_lba == u64::MAX {
        return Err(CURE);
    }
    Ok(LbaRange { first_lba, last_lba })
}

/// The intervals of a range.
pub(super) fn intervals(range: LbaRange) -> Range<u64> {
    range.first_lba..range.last_lba + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_or_a_first_and_a_last_are_lbas() {
        let lbas = |text| parse_lbas(text).map(|range| (range.first_lba, range.last_lba));
        assert_eq!((lbas("5"), lbas("5-9"), lbas("0-0")), (Ok((5, 5)), Ok((5, 9)), Ok((0, 0))));
        for bad in ["", "-", "9-5", "-5", "5-", "5-9-", "0x5", "18446744073709551615"] {
            lbas(bad).unwrap_err();
        }
    }
}
