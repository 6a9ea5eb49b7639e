//! What a run has found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::books::{Books, Series};
use super::latency::{self, Summary};
use super::meter::Sample;
use super::options::{Bench, Workload};
use crate::table::{bytes, table, thousands};

/// What `--json` prints. Fields are only added, never renamed: other programs read it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) workload: &'static str,
    pub(crate) endpoints: Vec<String>,
    pub(crate) clients: usize,
    pub(crate) connections: usize,
    /// How many watchers there are, and their streams; `null` if nothing is watched.
    pub(crate) watchers: Option<(usize, usize)>,
    pub(crate) value_bytes: u32,
    pub(crate) keys: u64,
    pub(crate) serializable: bool,
    /// The rate that was asked for; `null` for a closed loop.
    pub(crate) rate: Option<f64>,
    pub(crate) series: Vec<SeriesReport>,
    pub(crate) errors: u64,
    pub(crate) errors_by_text: BTreeMap<String, u64>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) lost_connections: BTreeMap<String, Loss>,
    /// Processor time of this program for each operation that was measured: put, get, event,
    /// keep-alive.
    pub(crate) own_cpu_us_per_operation: f64,
    /// How many processors this program has used on average.
    pub(crate) own_cpu_cores: f64,
    /// The same of the servers, if `--processes` named them.
    pub(crate) server_cpu_us_per_operation: Option<f64>,
    pub(crate) server_cpu_cores: Option<f64>,
    /// The memory that each of them has in use at the end.
    pub(crate) server_resident_bytes: Vec<u64>,
    /// Why the run ended before its time.
    pub(crate) aborted: Option<String>,
}

/// One kind of operation.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SeriesReport {
    pub(crate) name: &'static str,
    pub(crate) per_second: f64,
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) latency: Summary,
}

impl SeriesReport {
    fn new(series: &Series) -> SeriesReport {
        let latency = series.latencies.summary();
        let seconds = series.seconds();
        let per_second = if seconds > 0.0 {
            latency.count as f64 / seconds
        } else {
            0.0
        };
        SeriesReport {
            name: series.name,
            per_second,
            seconds,
            latency,
        }
    }

    /// A row of the table for a person.
    fn row(&self) -> Vec<String> {
        let latency = &self.latency;
        let quantiles = [
            latency.p50_us,
            latency.p90_us,
            latency.p99_us,
            latency.p999_us,
            latency.max_us,
        ];
        let mut row = vec![
            self.name.to_owned(),
            thousands(latency.count),
            thousands(self.per_second.round() as u64),
        ];
        row.extend(quantiles.map(latency::shown));
        row
    }
}

/// How many operations were measured; those that only prepare or cause others do not count.
fn measured_operations(options: &Bench, books: &Books) -> u64 {
    let is_main = |name: &str| match options.workload {
        Workload::Watch | Workload::Lease => name == options.workload.operation(),
        _ => true,
    };
    let series = books.series.iter().filter(|series| is_main(series.name));
    series.map(|series| series.latencies.count()).sum()
}

/// Connections of an endpoint that were lost.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Loss {
    pub(crate) count: u64,
    pub(crate) last_reason: String,
}

impl Report {
    /// Puts together what all threads have found, and the meters at both ends of the measurement.
    pub(crate) fn new(options: &Bench, books: &Books, window: Option<(Sample, Sample)>) -> Report {
        let measured = measured_operations(options, books);
        let per_operation = |used: Duration| used.as_secs_f64() * 1e6 / measured.max(1) as f64;
        let (own, servers, seconds) = window.map_or_else(Default::default, |(first, last)| {
            let seconds = last.at.duration_since(first.at).as_secs_f64();
            (
                last.own - first.own,
                last.servers.saturating_sub(first.servers),
                seconds,
            )
        });
        let cores = |used: Duration| used.as_secs_f64() / seconds.max(1e-9);
        let has_servers = !options.processes.is_empty();
        let losses = books.losses.iter().map(|(endpoint, (count, reason))| {
            let loss = Loss {
                count: *count,
                last_reason: reason.clone(),
            };
            (endpoint.clone(), loss)
        });
        Report {
            workload: options.workload.operation(),
            endpoints: options.endpoints.clone(),
            clients: options.clients,
            connections: options.connection_count(),
            watchers: (options.workload == Workload::Watch)
                .then(|| (options.watchers, options.stream_count())),
            value_bytes: options.value_size,
            keys: options.keys,
            serializable: options.serializable,
            rate: options.rate,
            series: books.series.iter().map(SeriesReport::new).collect(),
            errors: books.errors.total(),
            errors_by_text: books.errors.by_text().clone(),
            counts: books.counts.clone(),
            lost_connections: losses.collect(),
            own_cpu_us_per_operation: per_operation(own),
            own_cpu_cores: cores(own),
            server_cpu_us_per_operation: has_servers.then(|| per_operation(servers)),
            server_cpu_cores: has_servers.then(|| cores(servers)),
            server_resident_bytes: books.server_resident_bytes.clone(),
            aborted: books.aborted.clone(),
        }
    }

    /// The report as one line of JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts can be written as JSON")
    }

    /// The report for a person.
    pub(crate) fn text(&self) -> String {
        let heading = [
            "OPERATION",
            "COUNT",
            "PER SECOND",
            "P50",
            "P90",
            "P99",
            "P99.9",
            "MAX",
        ];
        let rows: Vec<Vec<String>> = self.series.iter().map(SeriesReport::row).collect();
        let mut text = table(&heading, &rows);
        let mut line = |line: String| {
            // Writing to a text does not fail.
            let _ = write!(text, "\n{line}");
        };
        line(String::new());
        line(self.load());
        line(format!(
            "own work: {:.1} us of processor time per operation, {:.2} processors",
            self.own_cpu_us_per_operation, self.own_cpu_cores
        ));
        if let (Some(each), Some(cores)) = (self.server_cpu_us_per_operation, self.server_cpu_cores)
        {
            let memory: Vec<String> = self
                .server_resident_bytes
                .iter()
                .copied()
                .map(bytes)
                .collect();
            line(format!(
                "servers: {each:.1} us of processor time per operation, {cores:.2} processors, \
                 memory {}",
                memory.join(" + ")
            ));
        }
        for (name, count) in &self.counts {
            line(format!("{name}: {}", thousands(*count)));
        }
        for (endpoint, loss) in &self.lost_connections {
            line(format!(
                "{endpoint}: {} connections lost, the last: {}",
                loss.count, loss.last_reason
            ));
        }
        line(format!("errors: {}", thousands(self.errors)));
        for (text, count) in &self.errors_by_text {
            line(format!("  {} x {text}", thousands(*count)));
        }
        text
    }

    /// What was done, in one line.
    fn load(&self) -> String {
        let kind = match self.rate {
            Some(rate) => format!("open loop, {rate} requests a second due"),
            None => "closed loop".to_owned(),
        };
        let watchers = match self.watchers {
            Some((watchers, streams)) => {
                let watchers = thousands(watchers as u64);
                format!("{watchers} watchers on {streams} streams, ")
            }
            None => String::new(),
        };
        format!(
            "{watchers}{} clients on {} connections to {}, {} keys, {}-byte values; {kind}",
            thousands(self.clients as u64),
            self.connections,
            self.endpoints.join(", "),
            thousands(self.keys),
            self.value_bytes
        )
    }
}
