//! The file with the keys of gossip.
//!
//! ```text
//!   # the first key closes packets, all of them open packets
//!   6f1d…  64 hexadecimal digits a line
//!   91c0…
//! ```
//!
//! A file and not a flag, because flags can be seen by everybody on the machine. It is read again
//! when it changes: keys are exchanged while the cluster runs, by giving every node the new key as
//! the second line, then as the first, then alone.

use std::path::Path;

use cluster::gossip::seal::{Key, Keys};

/// A cluster that exchanges keys needs two.
const MOST: usize = 8;

/// Reads the keys.
///
/// # Errors
/// What is wrong with the file; never what is in it.
pub(crate) fn read(path: &Path) -> Result<Keys, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    parse(&text).map_err(|problem| format!("{}: {problem}", path.display()))
}

fn parse(text: &str) -> Result<Keys, String> {
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = key(line).ok_or_else(|| {
            format!(
                "line {}: expected a key of 64 hexadecimal digits, as `openssl rand -hex 32` \
                 makes them",
                number + 1
            )
        })?;
        keys.push(Key::new(key));
    }
    match keys.len() {
        0 => Err("holds no key; expected 64 hexadecimal digits".to_owned()),
        1..=MOST => Ok(Keys(keys)),
        _ => Err(format!("holds more than {MOST} keys")),
    }
}

fn key(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        // A sign would be taken for a part of a number.
        if pair.starts_with('+') {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_in_lines_and_nothing_else_is_a_key() {
        let (one, other) = ("0a".repeat(32), "Ff".repeat(32));
        let text = format!("# ours\n{one}\n\n  {other}\n");
        let keys = vec![Key::new([0x0a; 32]), Key::new([0xff; 32])];
        assert_eq!(parse(&text), Ok(Keys(keys)));
        for wrong in ["", "# nothing\n", "0a", &"+a".repeat(32), &"ä".repeat(32)] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let wrong = format!("{one}\nsecret");
        let problem = parse(&wrong).unwrap_err();
        assert!(problem.contains("line 2") && !problem.contains("secret"));
        assert!(parse(&format!("{one}\n").repeat(9)).is_err());
    }
}
