//! One request by HTTP/1.1, and its answer, after which the connection is closed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use httparse::{EMPTY_HEADER, Status};

/// The length of the longest head of a request, in bytes.
const HEAD_LEN_MAX: usize = 16 << 10;
/// The largest number of its fields.
const FIELDS_MAX: usize = 64;
/// The longest time that a request, or its answer, may take on the way.
const LIMIT: Duration = Duration::from_secs(10);

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    stream: TcpStream,
    pub(super) path: Path,
    /// Whether the client takes the format of OpenMetrics.
    pub(super) takes_openmetrics: bool,
}

/// The part of the exporter that a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Metrics,
    Root,
    Unknown,
    /// The request is none, for this reason.
    Invalid(&'static str),
}

impl Request {
    /// Receives the request of a client, if it sends one in time.
    pub(super) fn receive(mut stream: TcpStream) -> io::Result<Self> {
        let deadline = Instant::now() + LIMIT;
        let mut head = Vec::new();
        let mut part = [0; 1024];
        loop {
            let (path, takes_openmetrics) = match parse(&head) {
                Parsed::Whole(path, takes_openmetrics) => (path, takes_openmetrics),
                Parsed::Part if head.len() < HEAD_LEN_MAX => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    stream.set_read_timeout(Some(left))?;
                    match stream.read(&mut part) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(len) => head.extend_from_slice(&part[..len]),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                    continue;
                }
                Parsed::Part => (Path::Invalid("the request is too long\n"), false),
            };
            return Ok(Self { stream, path, takes_openmetrics });
        }
    }

    /// Sends the answer and closes the connection.
    pub(super) fn answer(mut self, status: &str, content_type: &str, body: &str) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let deadline = Instant::now() + LIMIT;
        let whole = [head.as_bytes(), body.as_bytes()].concat();
        let mut rest = &whole[..];
        while !rest.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_write_timeout(Some(left))?;
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => rest = &rest[len..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.stream.shutdown(Shutdown::Write)
    }
}

/// The head of a request, as far as it has arrived.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Part,
    Whole(Path, bool),
}

fn parse(head: &[u8]) -> Parsed {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(Status::Partial) => return Parsed::Part,
        Ok(Status::Complete(_)) => {}
        Err(_) => return Parsed::Whole(Path::Invalid("no HTTP request\n"), false),
    }
    if request.method != Some("GET") {
        return Parsed::Whole(Path::Invalid("only GET is answered\n"), false);
    }
    let target = request.path.unwrap_or_default();
    let path = match target.split('?').next() {
        Some("/metrics") => Path::Metrics,
        Some("/") => Path::Root,
        _ => Path::Unknown,
    };
    let takes_openmetrics = request.headers.iter().any(|field| {
        let value = String::from_utf8_lossy(field.value);
        field.name.eq_ignore_ascii_case("accept") && value.contains("application/openmetrics-text")
    });
    Parsed::Whole(path, takes_openmetrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_when_it_is_whole() {
        let whole = "GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\naccept: application/openmetrics-text;version=1.0.0,*/*\r\n\r\n";
        for len in 0..whole.len() {
            assert_eq!(parse(&whole.as_bytes()[..len]), Parsed::Part, "{len}");
        }
        assert_eq!(parse(whole.as_bytes()), Parsed::Whole(Path::Metrics, true));
        assert_eq!(parse(b"GET / HTTP/1.0\r\n\r\n"), Parsed::Whole(Path::Root, false));
        assert_eq!(parse(b"GET /secret HTTP/1.0\r\n\r\n"), Parsed::Whole(Path::Unknown, false));
        for wrong in [&b"POST /metrics HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\0", b"GET\r\n\r\n"] {
            assert!(matches!(parse(wrong), Parsed::Whole(Path::Invalid(_), false)), "{wrong:?}");
        }
    }
}
