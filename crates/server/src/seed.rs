//! Randomness from the operating system: the seed of everything below that needs chance.

/// 64 random bits.
///
/// # Panics
/// If the operating system has none to give, which does not happen on a system that runs.
#[must_use]
pub(crate) fn from_system() -> u64 {
    u64::from_le_bytes(bytes_from_system())
}

/// Random bytes, good enough for keys.
///
/// # Panics
/// As [`from_system`].
#[must_use]
pub(crate) fn bytes_from_system<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the operating system gives no random bytes: {error}"),
        }
    }
    bytes
}
