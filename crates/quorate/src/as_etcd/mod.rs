//! Under the name of etcd: its flags, variables and file, as its users have them.
//!
//! ```text
//!   --flags, else ETCD_* ──┐
//!                          ├▶ given: name, value, where ─▶ translated ─▶ our own configuration
//!   --config-file (YAML) ──┘                                   │
//!                                    warnings: no meaning here ┤
//!                            refusal: would break a promise    ┘
//! ```
//!
//! Whoever stops etcd and starts this with the same flags must get what he asked for, or be told
//! that he does not. So every flag of etcd is in one table ([`flags`]) with what becomes of it:
//! it is followed; or it has no meaning here and is passed over with a line that says so; or
//! passing it over would break what it promises, and then the start is refused.
//!
//! - [`flags`]: the table. [`given`]: flags, variables and the file, read as etcd reads them.
//! - [`translate`]: the table applied.
//!
//! A node that has data takes nothing from the flags that say how a cluster begins, as in etcd:
//! where its peers reach it stands in its log, which `member update` changes and no restart.

mod flags;
mod given;
mod translate;

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use server::configuration::Configuration;

use translate::Here;

/// The version of etcd whose flags these are.
const ETCD_VERSION: &str = "3.7.1";

/// Whether the program was started under etcd's name.
pub(crate) fn is_named_etcd(program: &str) -> bool {
    Path::new(program)
        .file_name()
        .is_some_and(|name| name == "etcd")
}

/// Runs a node as etcd is run with these arguments.
#[allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a node that does not start has no log yet"
)]
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect::<Vec<_>>();
    match prepare(arguments, &variables, &default_host) {
        Ok(Prepared::Say(text)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Prepared::Run(configuration, warnings)) => {
            crate::serve::take_ordinary_pages();
            let began = Instant::now();
            match server::run_with_warnings(*configuration, &warnings) {
                Ok(signal) => {
                    end_by(signal);
                    ExitCode::SUCCESS
                }
                // No failure to etcd, at a start either: whoever starts failed nodes again shall
                // leave this one.
                Err(error @ server::Error::Removed) => {
                    eprintln!("etcd: {error}");
                    server::host::tell_supervisor();
                    ExitCode::SUCCESS
                }
                Err(error) => crate::serve::ended("etcd", &error, began),
            }
        }
        Err(problem) => {
            eprintln!("etcd: {problem}");
            ExitCode::from(2)
        }
    }
}

/// Ends the process by the signal that it was told to stop by, as etcd does, so that a supervisor
/// sees the same. The first process of a container cannot end that way, and ends with status 0, as
/// etcd's.
fn end_by(signal: Option<i32>) {
    if let Some(signal) = signal
        && std::process::id() != 1
    {
        // If it fails, status 0 says that all went well.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
}

/// What is to be done.
enum Prepared {
    Say(String),
    Run(Box<Configuration>, Vec<String>),
}

fn prepare(
    arguments: &[String],
    variables: &[(String, String)],
    default_host: &dyn Fn() -> Option<IpAddr>,
) -> Result<Prepared, String> {
    match arguments.first().map(String::as_str) {
        Some("gateway" | "grpc-proxy") => {
            return Err("the proxies of etcd are not part of this program".to_owned());
        }
        Some("version" | "--version" | "-version") => {
            let own = env!("CARGO_PKG_VERSION");
            let text = format!("etcd Version: {ETCD_VERSION}\nQuorate Version: {own}");
            return Ok(Prepared::Say(text));
        }
        Some("help" | "--help" | "-help" | "-h") => return Ok(Prepared::Say(flags::help())),
        _ => {}
    }
    let (given, mut warnings) = given::read(arguments, variables)?;
    let folder = translate::data_dir(&given);
    let here = Here {
        place_is_logged: server::folder::place_is_logged(Path::new(&folder)),
        default_host,
    };
    let translated = translate::translate(&given, &here)?;
    let mut configuration = translate::configuration(&translated, variables)?;
    warnings.extend(translated.warnings);
    // Nor does etcd move anything: here, whoever wants it says so (`quorate placement set`).
    configuration.heals_by_itself = false;
    refuse_foreign_data(&configuration.data_dir)?;
    Ok(Prepared::Run(Box::new(configuration), warnings))
}

/// The address that packets of this machine have that leave by its default route. Connecting a
/// socket for packets chooses it, and sends nothing.
fn default_host() -> Option<IpAddr> {
    // Addresses for documentation (RFC 5737, RFC 3849): nobody has a route of its own to them.
    let ways = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    ways.into_iter().find_map(|(own, far)| {
        let socket = UdpSocket::bind(own).ok()?;
        socket.connect(far).ok()?;
        let host = socket.local_addr().ok()?.ip();
        (!host.is_unspecified() && !host.is_loopback()).then_some(host)
    })
}

/// A folder that etcd has written holds data that would not be served.
fn refuse_foreign_data(folder: &Path) -> Result<(), String> {
    if folder.join("member").join("wal").exists() {
        return Err(format!(
            "{} holds the data of etcd itself, in a format of its own; it is left alone. Choose an \
             empty --data-dir, and copy the data from the running etcd",
            folder.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
