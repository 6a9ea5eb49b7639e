//! What is measured, and how it is run.

use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::servers::{Binaries, Servers, System};

/// How long nothing is counted after a load has begun.
const WARM_UP: &str = "500ms";
/// How long it takes until the windows and buffers of connections that are not read are full:
/// until then they cost what others cost.
const FILLED: &str = "5s";
/// Keys that puts write and gets read.
const KEYS: &str = "10000";
/// How long servers are left alone before their memory is read.
const IDLE: Duration = Duration::from_secs(5);

/// Workloads that share servers, in the order in which they run.
pub(crate) const GROUPS: &[&[Workload]] = &[
    &[
        Workload::Put { clients: 1 },
        Workload::Put { clients: 64 },
        Workload::Put { clients: 256 },
        Workload::Put { clients: 1000 },
    ],
    &[
        Workload::Get { clients: 1 },
        Workload::Get { clients: 64 },
        Workload::Get { clients: 256 },
        Workload::Get { clients: 1000 },
        Workload::SerializableGet { clients: 1 },
        Workload::SerializableGet { clients: 64 },
        Workload::SerializableGet { clients: 256 },
        Workload::SerializableGet { clients: 1000 },
    ],
    &[
        Workload::Watch { streams: 1000 },
        Workload::Watch { streams: 100 },
    ],
    &[
        Workload::Stalled { watchers: 0 },
        Workload::Stalled { watchers: 100 },
    ],
    &[Workload::Watchers { count: 1_000 }],
    &[Workload::Watchers { count: 100_000 }],
    &[Workload::Leases],
    &[Workload::Keys],
];

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    Put {
        clients: u32,
    },
    Get {
        clients: u32,
    },
    SerializableGet {
        clients: u32,
    },
    /// 1,000 watchers of one prefix.
    Watch {
        streams: u32,
    },
    /// Puts of 64 clients to keys that clients watch which do not read.
    Stalled {
        watchers: u32,
    },
    /// So many watchers on 1,000 streams, each of a key of its own; nothing is written.
    Watchers {
        count: u32,
    },
    /// 10,000 leases, each kept alive every second.
    Leases,
    /// Many keys in one node: memory, and how long a restart takes.
    Keys,
}

impl Workload {
    /// What `--only` calls it.
    pub(crate) fn name(self) -> String {
        match self {
            Workload::Put { clients } => format!("put-{clients}"),
            Workload::Get { clients } => format!("get-{clients}"),
            Workload::SerializableGet { clients } => format!("sget-{clients}"),
            Workload::Watch { streams } => format!("watch-{streams}x{}", 1000 / streams),
            Workload::Stalled { watchers } => format!("stalled-{watchers}"),
            Workload::Watchers { count } => format!("watchers-{count}"),
            Workload::Leases => "leases".to_owned(),
            Workload::Keys => "keys".to_owned(),
        }
    }

    /// Which plot it belongs to.
    pub(crate) fn family(self) -> &'static str {
        match self {
            Workload::Put { .. } => "put",
            Workload::Get { .. } => "get",
            Workload::SerializableGet { .. } => "sget",
            Workload::Watch { .. } => "watch",
            Workload::Stalled { .. } => "stalled",
            Workload::Watchers { .. } => "watchers",
            Workload::Leases => "leases",
            Workload::Keys => "keys",
        }
    }

    /// Reads are measured on servers that have not just been written to: etcd 3.4 keeps a
    /// buffer of the size that a burst of writes gave it, and copies it for every read.
    fn is_read(self) -> bool {
        matches!(
            self,
            Workload::Get { .. } | Workload::SerializableGet { .. }
        )
    }

    /// The arguments of `quorate bench`.
    fn arguments(self, seconds: u32) -> Vec<String> {
        let line = match self {
            Workload::Put { clients } => format!("put --clients {clients}"),
            Workload::Get { clients } => format!("get --clients {clients}"),
            Workload::SerializableGet { clients } => {
                format!("get --serializable --clients {clients}")
            }
            Workload::Watch { streams } => {
                format!("watch --watchers 1000 --streams {streams} --connections 10 --clients 4")
            }
            Workload::Stalled { watchers } => {
                format!("watch --watchers 1 --clients 64 --stalled {watchers}")
            }
            Workload::Watchers { count } => {
                let line = "watch --streams 1000 --connections 100 --one-key-each --total 0";
                return format!("{line} --watchers {count} --keys {count}")
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect();
            }
            Workload::Leases => "lease --leases 10000 --interval 1s --clients 100".to_owned(),
            Workload::Keys => unreachable!("it is more than one load"),
        };
        let warm_up = match self {
            Workload::Stalled { .. } => FILLED,
            _ => WARM_UP,
        };
        let line = format!("{line} --keys {KEYS} --duration {seconds}s --warm-up {warm_up}");
        line.split_whitespace().map(str::to_owned).collect()
    }
}

/// What one run of one workload on one system has found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measurement {
    pub(crate) workload: String,
    pub(crate) family: &'static str,
    pub(crate) system: System,
    pub(crate) round: usize,
    /// Names and values; what each means is said by the heading of its column in the table.
    pub(crate) figures: Vec<(&'static str, f64)>,
    pub(crate) errors: u64,
    /// Why there are no figures.
    pub(crate) problem: Option<String>,
}

/// How things are measured.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) binaries: Binaries,
    pub(crate) nodes: usize,
    pub(crate) seconds: u32,
    pub(crate) keys: u64,
}

/// Runs the chosen workloads of a group on one system.
pub(crate) async fn run_group(
    settings: &Settings,
    system: System,
    round: usize,
    workloads: &[Workload],
) -> io::Result<Vec<Measurement>> {
    if workloads.contains(&Workload::Keys) {
        return Ok(vec![many_keys(settings, system, round).await?]);
    }
    let mut servers = Servers::start(&settings.binaries, system, settings.nodes).await?;
    let mut measured = Vec::with_capacity(workloads.len());
    if workloads.iter().any(|workload| workload.is_read()) {
        fill(settings, &servers, KEYS, "64")?;
        servers.stop_all()?;
        servers.start_all().await?;
    }
    for workload in workloads {
        let mut measurement = empty(*workload, system, round);
        match bench(settings, &servers, &workload.arguments(settings.seconds)) {
            Ok(report) => take_figures(&mut measurement, &report),
            Err(problem) => measurement.problem = Some(problem.to_string()),
        }
        measured.push(measurement);
    }
    Ok(measured)
}

fn empty(workload: Workload, system: System, round: usize) -> Measurement {
    Measurement {
        workload: workload.name(),
        family: workload.family(),
        system,
        round,
        figures: Vec::new(),
        errors: 0,
        problem: None,
    }
}

/// What counts of a report of `quorate bench`.
fn take_figures(measurement: &mut Measurement, report: &Value) {
    let wanted = match measurement.family {
        "leases" => Some("keep-alive"),
        "stalled" => Some("put"),
        _ => None,
    };
    let series = report["series"].as_array().map_or(&[][..], Vec::as_slice);
    let main = series
        .iter()
        .find(|series| wanted.is_none_or(|wanted| series["name"] == wanted));
    let mut take = |name, value: &Value, factor: f64| {
        if let Some(value) = value.as_f64() {
            measurement.figures.push((name, value * factor));
        }
    };
    if let Some(series) = main {
        take("per_second", &series["per_second"], 1.0);
        take("p50_ms", &series["p50_us"], 1e-3);
        take("p99_ms", &series["p99_us"], 1e-3);
        take("p999_ms", &series["p999_us"], 1e-3);
    }
    take("server_us", &report["server_cpu_us_per_operation"], 1.0);
    take("server_cores", &report["server_cpu_cores"], 1.0);
    if measurement.family == "stalled" {
        // Each put is an event as well, for the one watcher that reads.
        let puts = main.and_then(|series| series["per_second"].as_f64());
        let factor = puts.map_or(0.0, |puts| 1e6 / puts);
        take("server_put_us", &report["server_cpu_cores"], factor);
    }
    take("client_us", &report["own_cpu_us_per_operation"], 1.0);
    let resident = report["server_resident_bytes"].as_array();
    let resident = resident.map(|each| each.iter().filter_map(Value::as_f64).sum::<f64>());
    if let Some(bytes) = resident {
        measurement.figures.push(("resident_mb", bytes / 1e6));
    }
    measurement.errors = report["errors"].as_u64().unwrap_or(0);
}

/// One node with many keys: how much memory that takes, and how soon it is back.
async fn many_keys(settings: &Settings, system: System, round: usize) -> io::Result<Measurement> {
    let mut servers = Servers::start(&settings.binaries, system, 1).await?;
    let keys = settings.keys.to_string();
    let report = fill(settings, &servers, &keys, "512")?;
    let mut measurement = empty(Workload::Keys, system, round);
    take_figures(&mut measurement, &report);
    measurement
        .figures
        .retain(|(name, _)| *name == "per_second");
    tokio::time::sleep(IDLE).await;
    let megabytes = |servers: &Servers| servers.resident_bytes() as f64 / 1e6;
    measurement.figures.push(("filled_mb", megabytes(&servers)));
    servers.stop_all()?;
    let restart = servers.start_all().await?;
    measurement
        .figures
        .push(("restart_s", restart.as_secs_f64()));
    tokio::time::sleep(IDLE).await;
    measurement
        .figures
        .push(("restarted_mb", megabytes(&servers)));
    Ok(measurement)
}

/// Writes every key once.
fn fill(settings: &Settings, servers: &Servers, keys: &str, clients: &str) -> io::Result<Value> {
    let line = format!("put --sequential --clients {clients} --keys {keys} --total {keys}");
    let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let report = bench(settings, servers, &arguments)?;
    match report["errors"].as_u64() {
        Some(0) => Ok(report),
        _ => Err(io::Error::other(format!(
            "not all keys were written: {report}"
        ))),
    }
}

/// Runs `quorate bench` on servers; its report.
fn bench(settings: &Settings, servers: &Servers, arguments: &[String]) -> io::Result<Value> {
    let output = Command::new(&settings.binaries.quorate)
        .arg("bench")
        .args(arguments)
        .args(["--value-size", "256", "--json"])
        .args(["--endpoints", &servers.endpoints()])
        .args(["--processes", &servers.processes()])
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.split(&[';', '\n'][..]).next().unwrap_or_default();
        let first = first.strip_prefix("quorate: ").unwrap_or(first);
        return Err(io::Error::other(first.to_owned()));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
