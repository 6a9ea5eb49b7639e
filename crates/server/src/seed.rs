//! Randomness from the operating system: the seed of everything below that needs chance.

/// 64 random bits.
///
/// # Panics
/// If the operating system has none to give, which does not happen on a system that runs.
#[must_use]
pub(crate) fn from_system() -> u64 {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the operating system gives no random bytes: {error}"),
        }
    }
    u64::from_le_bytes(bytes)
}
