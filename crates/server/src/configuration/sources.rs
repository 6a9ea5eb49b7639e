//! File, variables and flags, and where each value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key};
use super::{Configuration, Place};

/// Variables that begin like ours and mean something else: the command line's own, and those that
/// Kubernetes puts into every container for a service that happens to be called `quorate`.
const FOREIGN_VARIABLES: &[&str] = &[
    "QUORATE_ENDPOINTS",
    "QUORATE_ADMIN",
    "QUORATE_STARTED_AGAIN",
    "QUORATE_USER",
    "QUORATE_FROM_USER",
    "QUORATE_TO_USER",
];
const FOREIGN_PREFIXES: &[&str] = &["QUORATE_SERVICE_", "QUORATE_PORT"];

/// What there is to read.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// What holds where nothing else says anything, by the key's name.
    pub defaults: Vec<(String, String)>,
    /// The file given by `--config`, if any; without it, the variable `QUORATE_CONFIG` may name
    /// one.
    pub file: Option<PathBuf>,
    /// The environment: all of it, or nothing.
    pub variables: Vec<(String, String)>,
    /// Flags by the key's name, without the dashes. A later one of the same name wins.
    pub flags: Vec<(String, String)>,
    /// Whether what they say of where peers reach the node counts.
    pub place: Place,
}

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it, or the embedding program did.
    #[default]
    Program,
    /// A flag.
    Flag(String),
    /// A variable.
    Variable(String),
    /// A line of the file, counted from 1.
    File(PathBuf, usize),
    /// The file as a whole.
    WholeFile(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Program => write!(formatter, "not set"),
            Origin::Flag(name) => write!(formatter, "flag --{name}"),
            Origin::Variable(name) => write!(formatter, "variable {name}"),
            Origin::WholeFile(path) => write!(formatter, "{}", path.display()),
            Origin::File(path, line) => write!(formatter, "{}, line {line}", path.display()),
        }
    }
}

/// Something is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {key} ({origin}): {problem}")]
pub struct ConfigurationError {
    /// The key, as it was written.
    pub key: String,
    /// Where it was set.
    pub origin: Origin,
    /// What is wrong and what was expected.
    pub problem: String,
}

/// Where each key that was set came from.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(BTreeMap<&'static str, Origin>);

impl Origins {
    pub(super) fn of(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or_default()
    }
}

/// Reads everything, later sources over earlier ones.
pub(super) fn read(sources: &Sources) -> Result<(Configuration, Origins), ConfigurationError> {
    let mut reading = Reading {
        configuration: Configuration::default(),
        origins: Origins::default(),
    };
    reading.configuration.place = sources.place;
    for (name, value) in &sources.defaults {
        reading.set(find(name, &Origin::Program)?, Origin::Program, value)?;
    }
    let named = |(name, _): &&(String, String)| name == "QUORATE_CONFIG";
    let variable = sources
        .variables
        .iter()
        .find(named)
        .map(|(_, value)| PathBuf::from(value));
    if let Some(path) = sources.file.clone().or(variable) {
        reading.file(&path)?;
    }
    for (name, value) in &sources.variables {
        reading.variable(name, value)?;
    }
    for (name, value) in &sources.flags {
        let origin = Origin::Flag(name.clone());
        reading.set(find(name, &origin)?, origin, value)?;
    }
    Ok((reading.configuration, reading.origins))
}

struct Reading {
    configuration: Configuration,
    origins: Origins,
}

impl Reading {
    fn set(&mut self, key: &Key, origin: Origin, text: &str) -> Result<(), ConfigurationError> {
        match (key.apply)(&mut self.configuration, text.trim()) {
            Ok(()) => {
                self.origins.0.insert(key.name, origin);
                Ok(())
            }
            Err(expected) => {
                let problem = format!("{text:?} is not a valid value: {expected}");
                Err(ConfigurationError {
                    key: key.name.to_owned(),
                    origin,
                    problem,
                })
            }
        }
    }

    fn variable(&mut self, name: &str, value: &str) -> Result<(), ConfigurationError> {
        let foreign = FOREIGN_VARIABLES.contains(&name)
            || FOREIGN_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix));
        if !name.starts_with("QUORATE_") || name == "QUORATE_CONFIG" || foreign {
            return Ok(());
        }
        let origin = Origin::Variable(name.to_owned());
        let known = KEYS.iter().find(|key| key.variable() == name);
        self.set(known.ok_or_else(|| unknown(name, &origin))?, origin, value)
    }

    fn file(&mut self, path: &Path) -> Result<(), ConfigurationError> {
        let failure = |line: Option<usize>, problem: String| ConfigurationError {
            key: "config".into(),
            origin: match line {
                Some(line) => Origin::File(path.to_owned(), line),
                None => Origin::WholeFile(path.to_owned()),
            },
            problem,
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| failure(None, format!("cannot be read: {error}")))?;
        let line_at = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
        let table = DeTable::parse(&text).map_err(|error| {
            let line = error.span().map(|span| line_at(span.start));
            failure(line, format!("is not TOML: {}", error.message()))
        })?;
        for (name, value) in table.get_ref() {
            let origin = Origin::File(path.to_owned(), line_at(name.span().start));
            let key = find(name.get_ref(), &origin)?;
            let text = value_text(value).ok_or_else(|| ConfigurationError {
                key: key.name.to_owned(),
                origin: origin.clone(),
                problem: "expected a string, a number, true, false or a list of strings".into(),
            })?;
            self.set(key, origin, &text)?;
        }
        Ok(())
    }
}

/// A value of the file as the text that a flag would have.
fn value_text(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(is_on) => Some(is_on.to_string()),
        DeValue::Integer(number) => Some(number.as_str().to_owned()),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            });
            Some(items.collect::<Option<Vec<String>>>()?.join(","))
        }
        _ => None,
    }
}

fn find(name: &str, origin: &Origin) -> Result<&'static Key, ConfigurationError> {
    KEYS.iter()
        .find(|key| key.name == name)
        .ok_or_else(|| unknown(name, origin))
}

fn unknown(name: &str, origin: &Origin) -> ConfigurationError {
    let written = name
        .strip_prefix("QUORATE_")
        .unwrap_or(name)
        .to_lowercase()
        .replace('_', "-");
    let nearest = KEYS.iter().min_by_key(|key| distance(key.name, &written));
    let hint = match nearest {
        Some(key) if distance(key.name, &written) <= 3 => format!("; is {} meant?", key.name),
        _ => {
            let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            format!("; the keys are {}", names.join(", "))
        }
    };
    ConfigurationError {
        key: name.to_owned(),
        origin: origin.clone(),
        problem: format!("there is no such key{hint}"),
    }
}

/// The number of characters to insert, delete or exchange to make one text of the other
/// (Levenshtein 1965).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let exchanged = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
