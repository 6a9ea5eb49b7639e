//! What was said, wherever it was said: flags in Go's spelling, `ETCD_*` variables, or a YAML file.

use std::collections::BTreeMap;

use yaml_rust2::{Yaml, YamlLoader};

use super::flags::{self, Flag, Kind};

/// A value, and where it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) text: String,
    pub(super) place: String,
}

/// All that was said, by the name of the flag.
pub(super) type Given = BTreeMap<&'static str, Value>;

/// Reads everything, as etcd does: a file excludes all else; otherwise a flag wins over its
/// variable. Also what was passed over.
pub(super) fn read(
    arguments: &[String],
    variables: &[(String, String)],
) -> Result<(Given, Vec<String>), String> {
    let mut warnings = Vec::new();
    let (mut given, emptied) = from_flags(arguments)?;
    let file = given.remove("config-file");
    let file = file.map(|value| value.text).or_else(|| {
        let found = variables
            .iter()
            .find(|(name, _)| name == "ETCD_CONFIG_FILE");
        found.map(|(_, value)| value.clone())
    });
    if let Some(file) = file.filter(|file| !file.is_empty()) {
        if !given.is_empty() {
            let text = "--config-file is given: all other flags and variables are passed over";
            warnings.push(text.to_owned());
        }
        let text = std::fs::read_to_string(&file)
            .map_err(|error| format!("--config-file {file}: cannot be read: {error}"))?;
        let given = from_yaml(&file, &text, &mut warnings)?;
        return Ok((given, warnings));
    }
    for (name, value) in variables {
        let Some(rest) = name.strip_prefix("ETCD_") else {
            continue;
        };
        // To etcd a variable without a value says nothing.
        if value.is_empty() {
            continue;
        }
        let flag = rest.to_lowercase().replace('_', "-");
        match flags::find(&flag) {
            Some(flag) if emptied.contains(&flag.name) => {}
            Some(flag) => {
                given.entry(flag.name).or_insert_with(|| Value {
                    text: value.clone(),
                    place: format!("variable {name}"),
                });
            }
            None => warnings.push(format!(
                "variable {name} is none of etcd's, and passed over"
            )),
        }
    }
    // A file may do so, as in etcd.
    let is_said = |name| given.contains_key(name) || emptied.contains(&name);
    if is_said("listen-client-urls") && !is_said("advertise-client-urls") {
        let text =
            "--advertise-client-urls is required when --listen-client-urls is set explicitly";
        return Err(text.to_owned());
    }
    Ok((given, warnings))
}

/// Keys whose default stays if their value is empty: a file's or a flag's.
const URLS: [&str; 6] = [
    "listen-peer-urls",
    "listen-client-urls",
    "listen-client-http-urls",
    "initial-advertise-peer-urls",
    "advertise-client-urls",
    "listen-metrics-urls",
];

/// What flags say, and which were given and say nothing: those count as set, as to etcd.
fn from_flags(arguments: &[String]) -> Result<(Given, Vec<&'static str>), String> {
    let mut given = Given::new();
    let mut emptied = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let bare = argument.strip_prefix("--").or(argument.strip_prefix('-'));
        let Some(bare) = bare.filter(|bare| !bare.is_empty()) else {
            return Err(format!("'{argument}' is not a valid flag"));
        };
        let (name, value) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (bare, None),
        };
        let Some(flag) = flags::find(name) else {
            return Err(format!("flag provided but not defined: -{name}"));
        };
        let text = match (value, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Switch) => "true".to_owned(),
            (None, _) => arguments
                .next()
                .cloned()
                .ok_or_else(|| format!("flag needs an argument: -{name}"))?,
        };
        if text.is_empty() && URLS.contains(&flag.name) {
            emptied.push(flag.name);
            continue;
        }
        let place = format!("flag --{name}");
        // As with Go's flags, the last one counts.
        given.insert(flag.name, Value { text, place });
    }
    Ok((given, emptied))
}

/// The groups of the file whose names are not those of flags, and what their flags begin with.
const GROUPS: [(&str, &str); 3] = [
    ("client-transport-security", ""),
    ("peer-transport-security", "peer-"),
    ("socket-options", "socket-"),
];

/// Keys of the file that are no flags and no groups of such: passing over what they say would break
/// what it promises; why.
const REFUSED: [(&str, &str); 2] = [
    ("discovery-config", flags::FORMS_ITSELF),
    (
        "grpc-additional-server-options",
        "only programs that embed etcd have them",
    ),
];

fn from_yaml(file: &str, text: &str, warnings: &mut Vec<String>) -> Result<Given, String> {
    let documents =
        YamlLoader::load_from_str(text).map_err(|error| format!("{file}: is not YAML: {error}"))?;
    let mut given = Given::new();
    let Some(document) = documents.first() else {
        return Ok(given);
    };
    let Yaml::Hash(entries) = document else {
        return Err(format!("{file}: expected keys and values"));
    };
    for (key, value) in entries {
        let key = key.as_str().unwrap_or_default();
        let refused = REFUSED.iter().find(|(refused, _)| *refused == key);
        if let Some((_, why)) = refused {
            if !is_empty(value) {
                return Err(format!(
                    "{file}: {key} is refused, as passing it over would break what it promises: \
                     {why}"
                ));
            }
            continue;
        }
        let group = GROUPS.iter().find(|(group, _)| *group == key);
        match (group, value) {
            (Some((_, prefix)), Yaml::Hash(entries)) => {
                for (inner, value) in entries {
                    let inner = inner.as_str().unwrap_or_default();
                    if prefix.is_empty() && is_common_names(inner) && !is_empty(value) {
                        return Err(format!(
                            "{file}: {key}: {inner} is not served for clients, and passing it \
                             over would let others in: use allowed-hostname, or a \
                             trusted-ca-file for those clients alone"
                        ));
                    }
                    let name = name_in_group(prefix, inner);
                    take(&mut given, file, &name, value, warnings)?;
                }
            }
            (Some(_), Yaml::Null) => {}
            (Some(_), _) => return Err(format!("{file}: {key}: expected keys and values")),
            (None, value) => take(&mut given, file, key, value, warnings)?,
        }
    }
    Ok(given)
}

fn name_in_group(prefix: &str, name: &str) -> String {
    match (prefix, name) {
        ("", "allowed-hostname" | "allowed-hostnames") => "client-cert-allowed-hostname".into(),
        ("", "crl-file") => "client-crl-file".into(),
        // Of clients etcd does not look at that either.
        ("", "skip-client-san-verification") => "peer-skip-client-san-verification".into(),
        ("peer-", name) if is_common_names(name) => "peer-cert-allowed-cn".into(),
        ("peer-", "allowed-hostname" | "allowed-hostnames") => "peer-cert-allowed-hostname".into(),
        (prefix, name) => format!("{prefix}{name}"),
    }
}

fn is_common_names(name: &str) -> bool {
    matches!(name, "allowed-cn" | "allowed-cns")
}

/// Whether a key has no value, or one that says nothing.
fn is_empty(value: &Yaml) -> bool {
    match value {
        Yaml::Null => true,
        Yaml::String(text) => text.is_empty(),
        Yaml::Array(items) => items.is_empty(),
        Yaml::Hash(entries) => entries.iter().all(|(_, value)| is_empty(value)),
        _ => false,
    }
}

fn take(
    given: &mut Given,
    file: &str,
    name: &str,
    value: &Yaml,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let Some(flag) = flags::find(name) else {
        warnings.push(format!(
            "{file}: {name} is no key of etcd's, and passed over"
        ));
        return Ok(());
    };
    let keeps_default = URLS.contains(&flag.name) || flag.name == "initial-cluster-state";
    if keeps_default && is_empty(value) {
        return Ok(());
    }
    let problem = || format!("{file}: {name}: expected a text, a number, true, false or a list");
    if let Some(text) = text_of(flag, value).ok_or_else(problem)? {
        let place = format!("{file}, {name}");
        given.insert(flag.name, Value { text, place });
    }
    Ok(())
}

/// What switches etcd's reader of YAML knows besides `true` and `false`: those of YAML 1.1.
fn switch(text: &str) -> &str {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => "true",
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => "false",
        other => other,
    }
}

/// The text that the flag would have; inner `None` for a key without a value.
fn text_of(flag: &Flag, value: &Yaml) -> Option<Option<String>> {
    Some(Some(match value {
        Yaml::Null => return Some(None),
        Yaml::String(text) if flag.kind == Kind::Switch => switch(text).to_owned(),
        Yaml::String(text) => text.clone(),
        // As Go writes lengths of time into numbers: nanoseconds.
        Yaml::Integer(number) if flag.kind == Kind::Duration => format!("{number}ns"),
        Yaml::Integer(number) => number.to_string(),
        Yaml::Boolean(is_on) => is_on.to_string(),
        Yaml::Real(text) => text.clone(),
        Yaml::Array(items) => {
            let items = items.iter().map(Yaml::as_str).collect::<Option<Vec<_>>>()?;
            items.join(",")
        }
        _ => return None,
    }))
}
