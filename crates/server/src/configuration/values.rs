//! How the text of a value becomes what it means, or a sentence about what was expected.

use std::path::PathBuf;
use std::time::Duration;

use super::Listen;
use crate::tls::TlsVersion;

/// Origins as browsers write them.
pub(super) fn origins(text: &str) -> Result<Vec<String>, String> {
    let all = text
        .split(',')
        .map(str::trim)
        .filter(|each| !each.is_empty());
    let check = |origin: &str| {
        let is_text = origin.bytes().all(|byte| byte.is_ascii_graphic());
        match is_text && (origin == "*" || origin.contains("://")) {
            true => Ok(origin.to_owned()),
            false => Err("expected * or origins such as https://console.example".to_owned()),
        }
    };
    all.map(check).collect()
}

/// What a value of a key looks like that is on or off; as a flag it may stand without one.
pub const SWITCH: &str = "true|false";

pub(super) fn copies(text: &str) -> Result<usize, String> {
    let number = text.parse::<u16>().ok().filter(|number| *number > 0);
    number
        .map(usize::from)
        .ok_or_else(|| "expected a number from 1 to 65535".into())
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

pub(super) fn file(place: &mut Option<PathBuf>, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("expected a file".into());
    }
    *place = Some(PathBuf::from(text));
    Ok(())
}

pub(super) fn plain(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

pub(super) fn tls_version(text: &str) -> Result<TlsVersion, String> {
    match text {
        "TLS1.2" => Ok(TlsVersion::Tls12),
        "TLS1.3" => Ok(TlsVersion::Tls13),
        _ => Err("expected TLS1.2 or TLS1.3".into()),
    }
}

pub(super) fn node_name(text: &str) -> Result<String, String> {
    node::operator::check_name(text)?;
    Ok(text.to_owned())
}

/// Splits at commas, leaves out empty items, and refuses an empty list.
pub(super) fn list<T>(
    text: &str,
    item: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let items = items
        .map(|part| item(part).map_err(|expected| format!("{part:?}: {expected}")))
        .collect::<Result<Vec<T>, String>>()?;
    if items.is_empty() {
        Err("expected at least one item".into())
    } else {
        Ok(items)
    }
}

pub(super) fn cluster_entry(text: &str) -> Result<(String, String), String> {
    let (name, address) = text.split_once('=').ok_or("expected NAME=HOST:PORT")?;
    // Whether connections are encrypted is said by peer-cert-file.
    let bare = address.strip_prefix("http://");
    let address = bare
        .or_else(|| address.strip_prefix("https://"))
        .unwrap_or(address);
    Ok((
        node_name(name.trim())?,
        host_and_port(address.trim(), false)?,
    ))
}

pub(super) fn url(text: &str) -> Result<String, String> {
    let expected = "expected a URL such as http://10.0.0.1:2379";
    if let Some(("unix" | "unixs", path)) = text.split_once("://")
        && !path.is_empty()
    {
        return Ok(text.to_owned());
    }
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let rest = rest.ok_or(expected)?;
    host_and_port(rest, false).map_err(|_| expected)?;
    Ok(text.to_owned())
}

pub(super) fn listen(text: &str) -> Result<Listen, String> {
    match text.split_once(':') {
        Some(("unix", path)) if path.starts_with('/') => Ok(Listen::Unix(path.into())),
        Some(("unixs", path)) if path.starts_with('/') => Ok(Listen::SecuredUnix(path.into())),
        Some((scheme @ ("unix" | "unixs"), _)) => {
            Err(format!("expected {scheme}:/ and an absolute path"))
        }
        _ => tcp_listen(text).map_err(|_| "expected host:port, unix:/path or none".into()),
    }
}

pub(super) fn keyspace_listener(text: &str) -> Result<(String, Listen), String> {
    let (name, address) = text.split_once('=').ok_or("expected NAME=ADDRESS")?;
    let name = name.trim();
    cluster::meta::check_name(name)?;
    match listen(address.trim())? {
        Listen::None => Err("expected host:port or unix:/path".into()),
        listen => Ok((name.to_owned(), listen)),
    }
}

/// A name of the domain name system, with at least one label, without a dot at its ends.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let is_label = |label: &str| !label.is_empty() && label.chars().all(allowed);
    match text.len() <= 190 && text.split('.').all(is_label) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("expected a domain such as quorate.example".into()),
    }
}

pub(super) fn listeners(text: &str) -> Result<Vec<Listen>, String> {
    if text.contains(',') {
        return list(text, listen);
    }
    Ok(vec![listen(text)?])
}

pub(super) fn tcp_listen(text: &str) -> Result<Listen, String> {
    if text == "none" {
        return Ok(Listen::None);
    }
    host_and_port(text, true)
        .map(Listen::Tcp)
        .map_err(|_| "expected host:port (such as 127.0.0.1:2380 or [::1]:2380) or none".into())
}

/// `host:port`, with brackets around an IPv6 address. A name is not resolved here.
pub(super) fn host_and_port(text: &str, zero_port: bool) -> Result<String, String> {
    let expected = "expected host:port, such as 10.0.0.1:2380 or n1.example:2380";
    let (host, port) = text.rsplit_once(':').ok_or(expected)?;
    let port: u16 = port.parse().map_err(|_| expected)?;
    let host_is_good = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !host.is_empty() && host.len() <= 253 && host.chars().all(allowed)
        }
    };
    if !host_is_good || (port == 0 && !zero_port) {
        return Err(expected.into());
    }
    Ok(text.to_owned())
}

/// A number with a unit: `250ms`, `2s`, `1m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected = "expected a duration such as 250ms, 2s or 1m, more than zero";
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expected)?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    match milliseconds {
        Some(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds)),
        _ => Err(expected.into()),
    }
}

pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse::<u32>() {
        Ok(number) if (1..=1_000_000).contains(&number) => Ok(number as usize),
        _ => Err("expected a number from 1 to 1000000".into()),
    }
}
