//! What can be typed behind `quorate bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::endpoints::Endpoint;
use super::meter;
use super::socket::Trust;

/// Shown below the flags.
pub(crate) const EXAMPLES: &str = "\
Drives servers that speak etcd's protocol, ours or etcd itself, and says how fast they answer. By
default every client sends its next request when it has its answer (a closed loop). With --rate,
requests are due at fixed times, and latency counts from when a request was due: what waits
behind a stall is seen (an open loop). Writes go to keys that begin with --key-prefix; nothing is
removed afterwards, except leases.

Examples:
  256 clients on 100 connections, spread over three nodes, 256-byte values:
    quorate bench put --endpoints 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 \\
      --clients 256 --connections 100 --value-size 256 --duration 10s

  Fill 100,000 keys, then read them, linearizably and from the node asked:
    quorate bench put --clients 256 --keys 100000 --sequential --total 100000
    quorate bench get --clients 256 --keys 100000 --total 500000
    quorate bench get --clients 256 --keys 100000 --total 500000 --serializable

  1,000 puts a second, whatever happens:
    quorate bench put --clients 64 --rate 1000 --duration 30s

  1,000 watchers of one prefix on 100 streams; 4 clients write as fast as they are answered:
    quorate bench watch --watchers 1000 --streams 100 --connections 10 --clients 4 --duration 5s

  10,000 leases, each kept alive every second:
    quorate bench lease --leases 10000 --interval 1s --duration 10s

  For programs: quorate bench put --total 10000 --json | jq .series[0].per_second";

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Write a key
    Put,
    /// Read a key; linearizable unless --serializable
    Get,
    /// Compare a key's version, then write it
    Txn,
    /// Watch keys while clients write them; latency from sending a put to its event
    Watch,
    /// Grant leases and keep each alive
    Lease,
    /// Reads and writes, mixed as --reads says
    Mixed,
}

impl Workload {
    /// What one operation of it is called.
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::Txn => "txn",
            Workload::Watch => "event",
            Workload::Lease => "keep-alive",
            Workload::Mixed => "mixed",
        }
    }
}

/// How the load driver runs.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Bench {
    /// What is done
    #[arg(value_enum)]
    pub(crate) workload: Workload,
    /// The nodes; clients are spread over them
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        env = "QUORATE_ENDPOINTS",
        default_value = "127.0.0.1:2379"
    )]
    pub(crate) endpoints: Vec<String>,
    /// Authorities that vouch for the servers, PEM; connections then speak TLS
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// The certificate to show, PEM
    #[arg(long, value_name = "FILE", requires = "key", requires = "cacert")]
    pub(crate) cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// The user to sign in as
    #[arg(
        long,
        value_name = "NAME:PASSWORD",
        env = "QUORATE_USER",
        hide_env_values = true
    )]
    pub(crate) user: Option<String>,
    /// How many requests are under way at most (watch: writers)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub(crate) clients: usize,
    /// How many connections they share [default: a connection per client, at most 100]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) connections: Option<usize>,
    /// How long a value is, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) value_size: u32,
    /// How many keys there are
    #[arg(long, value_name = "N", default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub(crate) keys: u64,
    /// What all keys begin with
    #[arg(long, value_name = "TEXT", default_value = "bench/")]
    pub(crate) key_prefix: String,
    /// Use the keys one after the other, not at random
    #[arg(long)]
    pub(crate) sequential: bool,
    /// End after so many requests [default: 100000, or none with --duration]
    #[arg(long, value_name = "N")]
    pub(crate) total: Option<u64>,
    /// End after so long: 10s, 500ms
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Do not count what is due within this time after the beginning
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub(crate) warm_up: Duration,
    /// So many requests a second, whether or not earlier ones were answered
    #[arg(long, value_name = "PER SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Read what the node asked has, without a quorum
    #[arg(long)]
    pub(crate) serializable: bool,
    /// mixed: how many of 100 requests are reads
    #[arg(long, value_name = "PERCENT", default_value_t = 90,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) reads: u8,
    /// watch: how many watchers
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = at_least_one)]
    pub(crate) watchers: usize,
    /// watch, lease: how many streams they share [default: watch: one each, at most 1000;
    /// lease: one for each client]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) streams: Option<usize>,
    /// watch: each watcher watches one key, not all of them
    #[arg(long)]
    pub(crate) one_key_each: bool,
    /// watch: so many watchers more, each on a connection that is never read
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) stalled: usize,
    /// lease: how many leases
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = at_least_one)]
    pub(crate) leases: usize,
    /// lease: how long a lease lives without being kept alive
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) ttl: Duration,
    /// lease: how often each is kept alive
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// How long an answer is waited for
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// How many threads drive
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub(crate) threads: usize,
    /// Measure the processor time and memory of these servers, too: process ids on this machine
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    pub(crate) processes: Vec<u32>,
    /// Print one JSON object, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

impl Bench {
    /// What one flag alone cannot tell.
    ///
    /// # Errors
    /// Flags that do not go together, or an endpoint that is none; for a person.
    pub(crate) fn checked(&self) -> Result<Vec<Endpoint>, String> {
        let own = self.cert.as_deref().zip(self.key.as_deref());
        let trust = self.cacert.as_deref();
        let trust = trust
            .map(|authorities| Trust::read(authorities, own))
            .transpose()?;
        let endpoints: Result<Vec<Endpoint>, String> = self
            .endpoints
            .iter()
            .map(|text| Endpoint::parse(text.trim(), trust.as_ref()))
            .collect();
        let endpoints = endpoints?;
        if self.user.as_ref().is_some_and(|user| !user.contains(':')) {
            return Err("--user: expected NAME:PASSWORD".to_owned());
        }
        let is_watch = self.workload == Workload::Watch;
        let is_lease = self.workload == Workload::Lease;
        if self.total == Some(0) && !is_watch {
            return Err("--total 0 would measure nothing".to_owned());
        }
        if (self.timeout.is_zero()) || self.duration.is_some_and(|duration| duration.is_zero()) {
            return Err("--timeout and --duration are longer than 0s".to_owned());
        }
        if self.serializable && !matches!(self.workload, Workload::Get | Workload::Mixed) {
            return Err("--serializable is for reads: get and mixed".to_owned());
        }
        if is_watch && self.value_size < 8 {
            return Err("watch needs values of 8 bytes: they hold the time".to_owned());
        }
        if is_lease && self.ttl < Duration::from_secs(1) {
            return Err("--ttl counts in whole seconds, at least 1s".to_owned());
        }
        if is_lease && (self.interval.is_zero() || self.interval >= self.ttl) {
            return Err("--interval lies between 0s and --ttl, or the leases expire".to_owned());
        }
        if let Some(id) = self
            .processes
            .iter()
            .find(|id| meter::resident_bytes(**id).is_none())
        {
            return Err(format!("--processes: there is no process {id} here"));
        }
        if self.threads > 1 && (is_watch || is_lease) {
            return Err("--threads is for put, get, txn and mixed".to_owned());
        }
        if self.threads > self.clients.min(self.connection_count()) {
            return Err("every thread needs a client and a connection".to_owned());
        }
        Ok(endpoints)
    }

    /// How many requests end a run that nothing else ends.
    pub(crate) fn default_total(&self) -> u64 {
        100_000
    }

    /// How many connections there are.
    pub(crate) fn connection_count(&self) -> usize {
        let users = match self.workload {
            Workload::Watch => self.stream_count(),
            _ => self.clients,
        };
        self.connections.unwrap_or(users.min(100)).min(users)
    }

    /// How many streams watchers share.
    pub(crate) fn stream_count(&self) -> usize {
        match self.workload {
            Workload::Lease => self.streams.unwrap_or(self.clients).min(self.leases),
            _ => self.streams.unwrap_or(1_000).min(self.watchers),
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) if number <= 10_000_000 => Ok(number),
        Ok(_) => Err("at most 10000000".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e7 => Ok(rate),
        _ => Err("a number above 0, at most 10000000".to_owned()),
    }
}

/// `10s`, `500ms`, `2m`; a number alone means seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let number_ends = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(number_ends);
    let seconds = match unit {
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        _ => return Err("a time is like 10s, 500ms or 2m".to_owned()),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "a time is like 10s, 500ms or 2m".to_owned())?;
    if number * seconds > 86_400.0 {
        return Err("at most a day".to_owned());
    }
    Ok(Duration::from_secs_f64(number * seconds))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    fn parse(line: &str) -> Result<Bench, String> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.bench.checked()?;
        Ok(line.bench)
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "-1s", "1h", "1 s", "..s", "99999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn connections_are_no_more_than_those_who_use_them() {
        assert_eq!(parse("put").unwrap().connection_count(), 1);
        assert_eq!(parse("put --clients 64").unwrap().connection_count(), 64);
        assert_eq!(parse("put --clients 256").unwrap().connection_count(), 100);
        let few = parse("put --clients 4 --connections 9").unwrap();
        assert_eq!(few.connection_count(), 4);
        let watch = parse("watch --watchers 1000 --streams 100 --connections 10").unwrap();
        assert_eq!((watch.stream_count(), watch.connection_count()), (100, 10));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (line, part) in [
            ("putt", "put"),
            ("", "WORKLOAD"),
            ("put --clients 0", "at least 1"),
            ("put --connections 0", "at least 1"),
            ("put --clients many", "invalid digit"),
            ("put --value-size 0", "1..="),
            ("put --keys 0", "1..="),
            ("put --total 0", "--total"),
            ("put --duration 0s", "--duration"),
            ("put --rate 0", "above 0"),
            ("put --rate NaN", "above 0"),
            ("put --serializable", "--serializable"),
            ("put --user root", "NAME:PASSWORD"),
            ("put --threads 2", "thread"),
            ("put --endpoints nowhere", "nowhere"),
            ("mixed --reads 101", "0..="),
            ("watch --value-size 7", "8 bytes"),
            ("watch --threads 2 --clients 2", "--threads"),
            ("lease --interval 30s", "--interval"),
            ("lease --ttl 100ms", "--ttl"),
            ("put --processes 4294967295", "4294967295"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
