//! The table applied: from etcd's flags to our own keys.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use server::configuration::{Configuration, KEYS, Origin, Place, Sources};

use super::flags::{self, FLAGS, Fate, Flag, Kind};
use super::given::{Given, Value};

/// One of our keys, its value, and the flag of etcd's that it comes from.
pub(super) type Setting = (&'static str, String, &'static str);

/// The key that etcd has no flag for, and works out from another one; whoever names it himself has
/// it as he says.
const DERIVED: &str = "request-timeout";

/// What the flags come to.
#[derive(Debug, Default)]
pub(super) struct Translated {
    pub(super) settings: Vec<Setting>,
    /// Whether they say where peers reach this node.
    pub(super) place: Place,
    /// What was passed over, a sentence each.
    pub(super) warnings: Vec<String>,
}

/// Our configuration. What is set here wins over `QUORATE_*` variables, which may add keys that
/// etcd does not have, and [`DERIVED`].
pub(super) fn configuration(
    translated: &Translated,
    variables: &[(String, String)],
) -> Result<Configuration, String> {
    let settings = translated.settings.iter();
    let settings = settings.map(|(key, value, _)| ((*key).to_owned(), value.clone()));
    let (mut defaults, flags): (Vec<_>, Vec<_>) = settings.partition(|(key, _)| key == DERIVED);
    // Several nodes may share a machine, and etcd has no such port.
    defaults.push(("listen-admin".to_owned(), "none".to_owned()));
    let sources = Sources {
        defaults,
        file: None,
        variables: variables
            .iter()
            .filter(|(name, _)| name.starts_with("QUORATE_"))
            .cloned()
            .collect(),
        flags,
        place: translated.place,
    };
    Configuration::load(&sources).map_err(|error| {
        let is_translated = matches!(error.origin, Origin::Flag(_) | Origin::Program);
        let mut settings = translated.settings.iter().filter(|_| is_translated);
        match settings.find(|(key, ..)| *key == error.key) {
            Some((_, _, flag)) => format!("--{flag}: {}", error.problem),
            None => error.to_string(),
        }
    })
}

/// What counts besides what was given.
pub(super) struct Here<'a> {
    /// The data folder belongs to a member in whose log it stands where its peers reach it.
    pub(super) place_is_logged: bool,
    /// The address of this machine on its default route, if it has one.
    pub(super) default_host: &'a dyn Fn() -> Option<IpAddr>,
}

/// Translates everything, or says what cannot be.
pub(super) fn translate(given: &Given, here: &Here<'_>) -> Result<Translated, String> {
    let mut translation = Translation {
        given,
        here,
        out: Translated {
            place: Place::AsEtcd,
            ..Translated::default()
        },
    };
    for flag in FLAGS {
        if let Some(value) = given.get(flag.name) {
            translation.judge(flag, value)?;
        }
    }
    translation.node()?;
    translation.listeners()?;
    translation.security()?;
    translation.cluster()?;
    translation.rest()?;
    Ok(translation.out)
}

/// The data folder.
pub(super) fn data_dir(given: &Given) -> String {
    match text(given, "data-dir") {
        "" => format!("{}.etcd", text(given, "name")),
        folder => folder.to_owned(),
    }
}

/// The value of a flag, or etcd's default.
fn text<'a>(given: &'a Given, name: &str) -> &'a str {
    match given.get(name) {
        Some(value) => value.text.as_str(),
        None => flags::find(name).map_or("", |flag| flag.default),
    }
}

struct Translation<'a> {
    given: &'a Given,
    here: &'a Here<'a>,
    out: Translated,
}

impl Translation<'_> {
    /// What is not followed.
    fn judge(&mut self, flag: &'static Flag, value: &Value) -> Result<(), String> {
        let Flag { name, default, .. } = flag;
        let Value { text, place } = value;
        let is_default = match flag.kind {
            // Go has several spellings of both.
            Kind::Switch => {
                let is_on = truth(text).map_err(|problem| format!("{place}: {problem}"))?;
                Ok(is_on) == truth(default)
            }
            Kind::Text | Kind::Duration => default.split('|').any(|default| default == text),
        };
        match flag.fate {
            Fate::Followed => Ok(()),
            _ if is_default => Ok(()),
            Fate::Key(key) if KEYS.iter().any(|known| known.name == key) => {
                let mode = self.text("auto-compaction-mode");
                let value = value_of_key(name, text, mode)
                    .ok_or_else(|| format!("{place}: {text:?} makes no sense"))?;
                if let Some(value) = value {
                    self.set(key, value, name);
                }
                Ok(())
            }
            Fate::Key(_) => Err(format!(
                "{place}: {text:?} is not served yet, and passing it over would break what it \
                 promises; only {default:?} is accepted"
            )),
            Fate::Refused(why) => Err(format!(
                "{place}: {text:?} is refused, as passing it over would break what it promises: \
                 {why}"
            )),
            Fate::PassedOver(why) => {
                let warning = format!("{place}: passed over, it has no meaning here: {why}");
                self.out.warnings.push(warning);
                Ok(())
            }
        }
    }

    /// The value of a flag, or etcd's default.
    fn text(&self, name: &str) -> &str {
        text(self.given, name)
    }

    fn is_on(&self, name: &str) -> Result<bool, String> {
        truth(self.text(name)).map_err(|problem| format!("--{name}: {problem}"))
    }

    fn set(&mut self, key: &'static str, value: String, flag: &'static str) {
        self.out.settings.push((key, value, flag));
    }

    fn node(&mut self) -> Result<(), String> {
        let name = self.text("name").to_owned();
        self.set("data-dir", data_dir(self.given), "data-dir");
        self.set("name", name, "name");
        for (flag, key) in [
            ("heartbeat-interval", "heartbeat-interval"),
            ("election-timeout", "election-timeout"),
        ] {
            let text = self.text(flag);
            let number: u64 = text
                .parse()
                .map_err(|_| format!("--{flag}: {text:?} is no number of milliseconds"))?;
            self.set(key, format!("{number}ms"), flag);
            if flag == "election-timeout" {
                // Time to do it, and for an election before and another one meanwhile.
                let patience = number.saturating_mul(2).saturating_add(5000);
                self.set(DERIVED, format!("{patience}ms"), flag);
            }
        }
        Ok(())
    }

    fn listeners(&mut self) -> Result<(), String> {
        let mut clients = self.urls("listen-client-urls")?;
        let more = self.urls("listen-client-http-urls")?;
        if !more.is_empty() {
            let warning = "--listen-client-http-urls: every port of clients serves gRPC and HTTP";
            self.out.warnings.push(warning.to_owned());
        }
        clients.extend(more);
        self.scheme(&clients, "listen-client-urls", "")?;
        self.set("listen-etcd", joined(&clients), "listen-client-urls");
        let peers = self.urls("listen-peer-urls")?;
        self.scheme(&peers, "listen-peer-urls", "peer-")?;
        let [peer] = &peers[..] else {
            return Err(
                "--listen-peer-urls: expected one URL; the host 0.0.0.0 stands for all \
                        addresses of this machine"
                    .to_owned(),
            );
        };
        self.set("listen-peer", peer.address.clone(), "listen-peer-urls");
        let metrics = self.urls("listen-metrics-urls")?;
        if metrics.iter().any(|url| url.is_secure) {
            return Err(
                "--listen-metrics-urls: expected http: metrics of their own port are not \
                        encrypted"
                    .to_owned(),
            );
        }
        if !metrics.is_empty() {
            self.set("listen-metrics", joined(&metrics), "listen-metrics-urls");
        }
        self.urls("advertise-client-urls")?;
        let advertised = self.advertised("advertise-client-urls", "listen-client-urls")?;
        self.set("advertise-etcd", advertised, "advertise-client-urls");
        Ok(())
    }

    /// What is advertised. As in etcd the default, `localhost`, is none where all addresses of this
    /// machine are listened on: the one on its default route stands in for it.
    fn advertised(&mut self, flag: &str, listener: &str) -> Result<String, String> {
        let text = self.text(flag).to_owned();
        let is_default = flags::find(flag).is_some_and(|flag| flag.default == text);
        let port = self.urls(listener)?.into_iter().find_map(|url| {
            let port = url.address.strip_prefix("0.0.0.0:")?;
            port.parse::<u16>().ok()
        });
        let Some(port) = port.filter(|_| is_default) else {
            return Ok(text);
        };
        let Some(host) = (self.here.default_host)() else {
            self.out.warnings.push(format!(
                "--{flag}: {text} is advertised, which no other machine reaches: this one has no \
                 default route whose address could stand there"
            ));
            return Ok(text);
        };
        let url = format!("http://{}", SocketAddr::new(host, port));
        self.out.warnings.push(format!(
            "--{flag}: {url} is advertised, the address of this machine on its default route"
        ));
        Ok(url)
    }

    /// Whether connections are encrypted must not depend on which URL is looked at.
    fn scheme(&self, urls: &[Url], flag: &str, prefix: &str) -> Result<(), String> {
        let secure = urls.iter().filter(|url| url.is_secure).count();
        let has_tls = self.has_tls(prefix)?;
        if secure > 0 && !has_tls {
            return Err(format!(
                "--{flag}: https and unixs need --{prefix}cert-file and --{prefix}key-file"
            ));
        }
        // Plain Unix sockets stay plain beside them; plain ports would not.
        if secure > 0 && urls.iter().any(|url| !url.is_secure && !url.is_local) {
            return Err(format!("--{flag}: either all are https, or none is"));
        }
        Ok(())
    }

    fn has_tls(&self, prefix: &str) -> Result<bool, String> {
        let has_file = !self.text(&format!("{prefix}cert-file")).is_empty();
        Ok(has_file || self.is_on(&format!("{prefix}auto-tls"))?)
    }

    fn security(&mut self) -> Result<(), String> {
        const SIDES: [(&str, &[&str]); 2] = [
            ("", &["listen-client-urls", "listen-client-http-urls"]),
            ("peer-", &["listen-peer-urls"]),
        ];
        for (prefix, listeners) in SIDES {
            let flag = listeners[0];
            let mut urls = Vec::new();
            for listener in listeners {
                urls.extend(self.urls(listener)?);
            }
            if urls.iter().any(|url| url.is_secure) {
                self.one_side(prefix)?;
            } else if self.has_tls(prefix)? {
                let warning = format!(
                    "--{flag} says http: --{prefix}cert-file and the like are passed over, as \
                     etcd does"
                );
                self.out.warnings.push(warning);
            }
        }
        for name in ["cipher-suites", "tls-min-version", "tls-max-version"] {
            if !self.text(name).is_empty() && self.given.contains_key(name) {
                self.set(name, self.text(name).to_owned(), name);
            }
        }
        Ok(())
    }

    /// Keys of TLS have the names of etcd's flags.
    fn one_side(&mut self, prefix: &str) -> Result<(), String> {
        const FILES: &[&str] = &[
            "cert-file",
            "key-file",
            "trusted-ca-file",
            "client-crl-file",
            "client-cert-allowed-hostname",
            "peer-cert-file",
            "peer-key-file",
            "peer-trusted-ca-file",
            "peer-crl-file",
            "peer-cert-allowed-cn",
            "peer-cert-allowed-hostname",
        ];
        const SWITCHES: &[&str] = &[
            "client-cert-auth",
            "auto-tls",
            "peer-client-cert-auth",
            "peer-auto-tls",
        ];
        let is_of_side = |name: &str| name.starts_with("peer-") == (prefix == "peer-");
        for name in FILES.iter().filter(|name| is_of_side(name)) {
            let text = self.text(name).to_owned();
            if !text.is_empty() {
                self.set(name, text, name);
            }
        }
        for name in SWITCHES.iter().filter(|name| is_of_side(name)) {
            if self.is_on(name)? {
                self.set(name, "true".to_owned(), name);
            }
        }
        Ok(())
    }

    /// etcd's flags say of a new member where it is, and whether it forms a cluster or joins one.
    /// Of one that has data they say nothing, there as here: what they once said may no longer be
    /// so.
    fn cluster(&mut self) -> Result<(), String> {
        let state = self.text("initial-cluster-state");
        if !matches!(state, "new" | "existing") {
            return Err(format!(
                "--initial-cluster-state: {state:?} is neither new nor existing"
            ));
        }
        let is_new = state == "new";
        self.urls("initial-advertise-peer-urls")?;
        if self.here.place_is_logged {
            self.out.place = Place::Logged;
            return Ok(());
        }
        let name = self.text("name").to_owned();
        let advertised = self.advertised("initial-advertise-peer-urls", "listen-peer-urls")?;
        let members = self.initial_members(&name, &advertised)?;
        let Some((_, own)) = members.iter().find(|(member, _)| *member == name) else {
            return Err(format!(
                "couldn't find local name \"{name}\" in the initial cluster configuration"
            ));
        };
        let urls = parse_all("initial-advertise-peer-urls", &advertised)?;
        if !urls.iter().any(|url| url.address == *own) {
            return Err(format!(
                "--initial-cluster has {name}={own}, which is not in \
                 --initial-advertise-peer-urls={advertised}"
            ));
        }
        let own = own.clone();
        let others: Vec<String> = members
            .iter()
            .filter(|(member, _)| *member != name)
            .map(|(_, address)| address.clone())
            .collect();
        // A node that has an identity has begun, and goes on as it began.
        let has_begun = Path::new(&data_dir(self.given))
            .join("identity.toml")
            .exists();
        if !is_new && !others.is_empty() {
            self.set("advertise-peer", own, "initial-advertise-peer-urls");
            self.set("join", others.join(","), "initial-cluster");
            return Ok(());
        }
        if !is_new && !has_begun {
            return Err(
                "--initial-cluster-state existing: --initial-cluster names no other member to ask"
                    .to_owned(),
            );
        }
        let list: Vec<String> = members
            .iter()
            .map(|(member, address)| format!("{member}={address}"))
            .collect();
        self.set("cluster", list.join(","), "initial-cluster");
        Ok(())
    }

    /// The members of `--initial-cluster`, by default this one alone, and where each is.
    fn initial_members(
        &mut self,
        name: &str,
        advertised: &str,
    ) -> Result<Vec<(String, String)>, String> {
        let list = match self.text("initial-cluster") {
            "" => format!("{name}={advertised}"),
            list => list.to_owned(),
        };
        let mut members: Vec<(String, String)> = Vec::new();
        for entry in list
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
        {
            let (member, url) = entry.split_once('=').unwrap_or((name, entry));
            let url = parse("initial-cluster", url)?;
            match members.iter().find(|(known, _)| known == member) {
                None => members.push((member.to_owned(), url.address)),
                Some((_, first)) => self.out.warnings.push(format!(
                    "--initial-cluster: of the addresses of {member}, {first} is used"
                )),
            }
        }
        Ok(members)
    }

    fn rest(&mut self) -> Result<(), String> {
        let interval = self.text("watch-progress-notify-interval");
        let interval = milliseconds(interval).ok_or_else(|| {
            format!("--watch-progress-notify-interval: {interval:?} is no length of time")
        })?;
        let flag = "watch-progress-notify-interval";
        self.set("watch-progress-interval", format!("{interval}ms"), flag);
        let level = match self.text("log-level") {
            "debug" => "debug",
            "info" => "info",
            "warn" => "warn",
            "error" | "dpanic" | "panic" | "fatal" => "error",
            other => return Err(format!("--log-level: there is no level {other:?}")),
        };
        self.set("log-level", level.to_owned(), "log-level");
        let format = match self.text("log-format") {
            "json" => "json",
            "console" => "text",
            other => {
                return Err(format!(
                    "--log-format: {other:?} is neither json nor console"
                ));
            }
        };
        self.set("log-format", format.to_owned(), "log-format");
        let gates = self.text("feature-gates").to_owned();
        for gate in gates.split(',').filter(|gate| !gate.is_empty()) {
            let (name, _) = gate.split_once('=').unwrap_or((gate, ""));
            if !flags::GATES.contains(&name) {
                return Err(format!(
                    "--feature-gates: unrecognized feature gate: {name}"
                ));
            }
            let warning = format!("--feature-gates: {name} is passed over, it has no meaning here");
            self.out.warnings.push(warning);
        }
        Ok(())
    }

    fn urls(&self, name: &str) -> Result<Vec<Url>, String> {
        parse_all(name, self.text(name))
    }
}

/// Truth as Go reads it.
fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

/// What a flag of another form is as a value of our key; inner `None` if it says nothing alone.
fn value_of_key(flag: &str, text: &str, compaction_mode: &str) -> Option<Option<String>> {
    Some(Some(match flag {
        "quota-backend-bytes" => match text.parse::<i64>().ok()? {
            // Less than nothing turns it off.
            ..0 => i64::MAX.to_string(),
            bytes => bytes.to_string(),
        },
        "auto-compaction-mode" => return matches!(text, "periodic" | "revision").then_some(None),
        "auto-compaction-retention" => match (compaction_mode, text.parse::<u64>()) {
            ("revision", Ok(revisions)) => revisions.to_string(),
            // A number alone counts hours.
            ("periodic", Ok(hours)) => format!("{hours}h"),
            ("periodic", Err(_)) => match milliseconds(text)? {
                0 => "all".to_owned(),
                length => format!("{length}ms"),
            },
            _ => return None,
        },
        "strict-reconfig-check" => truth(text).ok()?.to_string(),
        "auth-token-ttl" => format!("{}s", text.parse::<u32>().ok()?),
        _ => text.to_owned(),
    }))
}

/// A URL of etcd's flags.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    /// As our keys have it: `host:port`, `unix:/path` or `unixs:/path`.
    address: String,
    is_secure: bool,
    /// It never leaves this machine.
    is_local: bool,
}

fn joined(urls: &[Url]) -> String {
    let addresses: Vec<&str> = urls.iter().map(|url| url.address.as_str()).collect();
    addresses.join(",")
}

fn parse_all(flag: &str, text: &str) -> Result<Vec<Url>, String> {
    let parts = text.split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(|part| parse(flag, part))
        .collect()
}

fn parse(flag: &str, text: &str) -> Result<Url, String> {
    let problem = || format!("--{flag}: {text:?}: expected a URL such as http://10.0.0.1:2380");
    let (scheme, rest) = text.split_once("://").ok_or_else(problem)?;
    match scheme {
        "http" | "https" if rest.contains(':') => Ok(Url {
            address: rest.trim_end_matches('/').to_owned(),
            is_secure: scheme == "https",
            is_local: false,
        }),
        // What looks like a host is the beginning of a path, in etcd too.
        "unix" | "unixs" if !rest.is_empty() => {
            let path = std::path::absolute(rest);
            let path = path.map_err(|error| format!("--{flag}: {text:?}: {error}"))?;
            Ok(Url {
                address: format!("{scheme}:{}", path.display()),
                is_secure: scheme == "unixs",
                is_local: true,
            })
        }
        _ => Err(problem()),
    }
}

/// A length of time in Go's spelling, such as `1h30m` or `250ms`; less than a millisecond counts
/// as one.
fn milliseconds(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 7] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let mut rest = text;
    let mut nanoseconds = 0u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let length = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..length])?;
        nanoseconds = nanoseconds.checked_add(number.checked_mul(*unit)?)?;
        rest = &rest[length..];
    }
    Some(nanoseconds.div_ceil(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_another_form_are_translated() {
        let cases = [
            ("auto-compaction-retention", "0s", "periodic", Some("all")),
            ("quota-backend-bytes", "8589934592", "", Some("8589934592")),
            ("quota-backend-bytes", "-1", "", Some("9223372036854775807")),
            ("quota-backend-bytes", "5120", "", Some("5120")),
            ("strict-reconfig-check", "F", "", Some("false")),
            ("strict-reconfig-check", "maybe", "", None),
            ("cors", "*", "", Some("*")),
            ("quota-backend-bytes", "8GiB", "", None),
            ("auto-compaction-retention", "8", "periodic", Some("8h")),
            (
                "auto-compaction-retention",
                "5m",
                "periodic",
                Some("300000ms"),
            ),
            (
                "auto-compaction-retention",
                "1000",
                "revision",
                Some("1000"),
            ),
            ("auto-compaction-retention", "5m", "revision", None),
            ("auth-token-ttl", "300", "", Some("300s")),
            ("auth-token", "jwt,ttl=5m", "", Some("jwt,ttl=5m")),
        ];
        for (flag, text, mode, expected) in cases {
            let value = value_of_key(flag, text, mode).flatten();
            assert_eq!(value.as_deref(), expected, "{flag} {text}");
        }
    }

    #[test]
    fn lengths_of_time_are_read_as_go_writes_them() {
        for (text, expected) in [
            ("1h30m", Some(5_400_000)),
            ("250ms", Some(250)),
            ("1ns", Some(1)),
            ("5", None),
            ("", None),
            ("s", None),
            ("99999999999999999999h", None),
            ("9999999999h", None),
            ("1d", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }
}
