//! The program: from the command line to the exit code.

use std::backtrace::Backtrace;
use std::process::ExitCode;
use std::time::Duration;
use std::{io, panic};

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use stableblk::command::repair::{rebind, restore};
use stableblk::command::{
    accept, check, completions, copy, create, ctl, exporter, info, list, man, protect, resize, serve, top,
};
use stableblk::control::log::{self, LogFormat, LogWriter};
use stableblk::control::log_filter::{self, LogFilter};
use stableblk::report;

const DEFAULT_LOG: &str = "info";

/// vhost-user-blk back-end that keeps guest writes stable and protects them by T10/NVMe protection
/// information
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(
    override_usage = "stableblk --socket-path <PATH> --blk-file <FILE> [OPTIONS]\n       stableblk <COMMAND>"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<CliCommand>,
    #[command(flatten)]
    serve: Option<serve::ServeArgs>,
    /// Print the capabilities of this back-end as JSON, and exit
    #[arg(long)]
    print_capabilities: bool,
    /// The level of the log on stderr: error, warn, info, debug, trace, or a filter as in
    /// `RUST_LOG`
    #[arg(long, global = true, env = "RUST_LOG", default_value = DEFAULT_LOG, value_name = "FILTER")]
    log: String,
    /// Format of the log
    #[arg(long, global = true, value_enum, default_value_t = LogFormatName::Text)]
    log_format: LogFormatName,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Make a sparse raw image and its sidecar
    Create(create::CreateArgs),
    /// Make the sidecar of an existing raw image
    Protect(protect::ProtectArgs),
    /// Verify every block of an image against its tuple
    Check(check::CheckArgs),
    /// Copy a protected image and its sidecar, and verify each block
    Copy(copy::CopyArgs),
    /// Accept blocks as they are: damaged ones, or those that a crash has left in doubt
    Accept(accept::AcceptArgs),
    /// Restore damaged blocks from a backup
    Restore(restore::RestoreArgs),
    /// Give an image that has lost its UUID that of its sidecar
    Rebind(rebind::RebindArgs),
    /// Show what an image and its sidecar are
    Info(info::InfoArgs),
    /// Grow an image and its sidecar
    Resize(resize::ResizeArgs),
    /// Ask a running disk for its status, or to resize, flush, drain or log
    Ctl(ctl::CtlArgs),
    /// Serve the metrics of all disks of this host to Prometheus
    Exporter(exporter::ExporterArgs),
    /// Show all disks of this host
    List(list::ListArgs),
    /// Show what the disks of this host do now
    Top(top::TopArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Man(man::ManArgs),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormatName {
    Text,
    Json,
}

fn main() -> ExitCode {
    // QEMU's back-end conventions ask for this, whatever the other options are
    if std::env::args_os().skip(1).any(|arg| arg == "--print-capabilities") {
        println!("{}", serve::CAPABILITIES);
        return ExitCode::SUCCESS;
    }
    // A limit on file sizes is an error of the request that exceeds it, and does not end the
    // process. Threads inherit this.
    if let Err(error) = vmm_sys_util::signal::block_signal(libc::SIGXFSZ) {
        return fail(&io::Error::other(format!("cannot block SIGXFSZ: {error:?}")), 1);
    }
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let mut cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let args = cli.serve.take().filter(|_| cli.command.is_none());
    #[expect(unsafe_code, reason = "takes over a descriptor by its number")]
    // SAFETY: nothing has been opened yet, and this is the only call.
    let config = args.map(|args| unsafe { serve::Config::new(args) });
    let (writer, log) = match start_log(&cli) {
        Ok(log) => log,
        Err(error) => {
            let from_environment = matches.value_source("log") == Some(ValueSource::EnvVariable);
            let name = if from_environment { "RUST_LOG" } else { "--log" };
            let code = if config.is_some() { serve::EXIT_CONFIGURATION } else { EXIT_USAGE };
            return fail(&io::Error::other(format!("{name}: {error}")), code);
        }
    };
    let code = match (&cli.command, config) {
        (Some(command), _) => run(command),
        (None, Some(config)) => {
            config.and_then(|config| serve::run(config, &log)).unwrap_or_else(|error| {
                // the lines before this one come first
                writer.flush(LOG_LIMIT);
                fail(&error, error.exit_code())
            })
        }
        (None, None) => unreachable!("clap requires the options of serving when there is no subcommand"),
    };
    writer.flush(LOG_LIMIT);
    code
}

/// Runs a subcommand.
fn run(command: &CliCommand) -> ExitCode {
    match command {
        CliCommand::Create(args) => create::run(args).unwrap_or_else(|error| fail(&error, 1)),
        CliCommand::Protect(args) => protect::run(args).unwrap_or_else(|error| fail(&error, 1)),
        CliCommand::Check(args) => {
            check::run(args).unwrap_or_else(|error| fail(&error, error.exit_status(2)))
        }
        CliCommand::Copy(args) => copy::run(args).unwrap_or_else(|error| fail(&error, error.exit_status(2))),
        CliCommand::Accept(args) => {
            accept::run(args).unwrap_or_else(|error| fail(&error, error.exit_status(1)))
        }
        CliCommand::Restore(args) => {
            restore::run(args).unwrap_or_else(|error| fail(&error, error.exit_status(1)))
        }
        CliCommand::Rebind(args) => {
            rebind::run(args).unwrap_or_else(|error| fail(&error, error.exit_status(1)))
        }
        CliCommand::Info(args) => info::run(args).unwrap_or_else(|error| fail(&error, 1)),
        CliCommand::Resize(args) => {
            resize::run(args).unwrap_or_else(|error| fail(&error, error.exit_status(1)))
        }
        CliCommand::Man(args) => man::run(args, Cli::command()).unwrap_or_else(|error| fail(&error, 1)),
        CliCommand::Completions(args) => {
            completions::run(*args, Cli::command()).unwrap_or_else(|error| fail(&error, 1))
        }
        CliCommand::Ctl(args) => ctl::run(args).unwrap_or_else(|error| fail(&error, error.exit_code())),
        CliCommand::List(args) => list::run(args).unwrap_or_else(|error| fail(&error, 2)),
        CliCommand::Top(args) => top::run(args).unwrap_or_else(|error| fail(&error, 1)),
        CliCommand::Exporter(args) => exporter::run(args).unwrap_or_else(|error| fail(&error, 1)),
    }
}

/// The exit status of a subcommand whose arguments are wrong.
const EXIT_USAGE: u8 = 2;

/// Prints help, the version, or the fault of the arguments. When serving, wrong arguments are a
/// wrong configuration: a service manager must not start the process again.
fn usage(error: &clap::Error) -> ExitCode {
    // there is no other place to report a failure
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let program = Cli::command();
    let serves = !std::env::args_os().skip(1).any(|arg| program.find_subcommand(arg).is_some());
    ExitCode::from(if serves { serve::EXIT_CONFIGURATION } else { EXIT_USAGE })
}

/// How long the process waits at its end for the reader of the log.
const LOG_LIMIT: Duration = Duration::from_secs(1);

fn start_log(cli: &Cli) -> io::Result<(LogWriter, LogFilter)> {
    // a variable that is empty counts as unset
    let text = if cli.log.trim().is_empty() { DEFAULT_LOG } else { &cli.log };
    let filter = log_filter::parse(text).map_err(io::Error::other)?;
    // a thread that serves must not wait for the reader of the log
    let format = match cli.log_format {
        LogFormatName::Text => LogFormat::Text,
        LogFormatName::Json => LogFormat::Json,
    };
    let writer =
        if cli.command.is_none() { LogWriter::start(io::stderr(), format)? } else { LogWriter::direct() };
    let at_panic = writer.clone();
    panic::set_hook(Box::new(move |panic| {
        // by the thread of the log, because standard error may be full and not be read
        let report = format!("{panic}\n{}", Backtrace::capture());
        report.lines().for_each(|line| at_panic.write_line(line.as_bytes()));
        at_panic.flush(LOG_LIMIT);
    }));
    let filter = log::start(&writer, format, text, filter);
    Ok((writer, filter))
}

/// Prints the error as the last line, unless standard error is full and not read.
fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let line = format!("stableblk: {}\n", log::escape(&report::chain(error)));
    match LogWriter::start(io::stderr(), LogFormat::Text) {
        Ok(writer) => {
            writer.write_line(line.as_bytes());
            writer.flush(LOG_LIMIT);
        }
        Err(_) => eprint!("{line}"),
    }
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use stableblk::command::man::EXAMPLES;

    use super::Cli;

    #[test]
    fn the_examples_of_the_manual_are_command_lines() {
        for (example, _) in EXAMPLES {
            let words = ["stableblk"].into_iter().chain(example.split(' '));
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{example}: {error}"));
        }
    }
}
