//! `stableblk exporter`: serves the metrics of all disks of a host over HTTP.

mod http;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use thiserror::Error;

use self::http::{Path, Request};
use super::disks::DisksArgs;
use super::openmetrics::{MetricsFormat, metrics_of};
use crate::report;

/// Connections that are served at the same time. Others are closed at once.
const CONNECTIONS_MAX: usize = 16;
/// The pause after a connection could not be accepted: the cause may lie in the whole system.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serve the metrics of all disks of this host to Prometheus, at /metrics
///
/// Control sockets are open to root and to the user of their disk, so run it as one of them. A disk
/// that does not reply has the metric `stableblk_up` 0, and delays the others by no more than
/// `--timeout`.
#[derive(Debug, Clone, Args)]
pub struct ExporterArgs {
    /// The address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9713")]
    listen: SocketAddr,
    #[command(flatten)]
    disks: DisksArgs,
}

/// Why there is nothing to scrape.
#[derive(Debug, Error)]
pub enum ExporterError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Serves until the process is killed.
pub fn run(args: &ExporterArgs) -> Result<ExitCode, ExporterError> {
    let failed = |source| ExporterError::Listen { address: args.listen, source };
    let listener = TcpListener::bind(args.listen).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!("serving metrics at http://{address}/metrics");
    let (args, connections) = (Arc::new(args.clone()), Arc::new(AtomicUsize::new(0)));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let connection = Connection::new(connections.clone());
        if connection.number > CONNECTIONS_MAX {
            continue;
        }
        let args = args.clone();
        let thread = thread::Builder::new().name("scrape".to_owned()).spawn(move || {
            serve(&args, stream);
            drop(connection);
        });
        if let Err(error) = thread {
            tracing::warn!("cannot start a thread for a connection: {error}");
        }
    }
}

/// A connection that counts until it is dropped.
struct Connection {
    number: usize,
    connections: Arc<AtomicUsize>,
}

impl Connection {
    fn new(connections: Arc<AtomicUsize>) -> Self {
        let number = connections.fetch_add(1, Ordering::Relaxed) + 1;
        Self { number, connections }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers one request.
fn serve(args: &ExporterArgs, stream: TcpStream) {
    let answered = Request::receive(stream).and_then(|request| match request.path {
        Path::Metrics => {
            let format = if request.takes_openmetrics {
                MetricsFormat::OpenMetrics
            } else {
                MetricsFormat::Prometheus
            };
            match metrics_of(args.disks.find(), format) {
                Ok(text) => request.answer("200 OK", format.content_type(), &text),
                Err(error) => {
                    request.answer("500 Internal Server Error", "text/plain", &report::chain(&error))
                }
            }
        }
        Path::Root => request.answer("200 OK", "text/html", "<a href=\"/metrics\">metrics</a>\n"),
        Path::Unknown => request.answer("404 Not Found", "text/plain", "the metrics are at /metrics\n"),
        Path::Invalid(reason) => request.answer("400 Bad Request", "text/plain", reason),
    });
    if let Err(error) = answered {
        tracing::debug!("a scrape was given up: {error}");
    }
}
