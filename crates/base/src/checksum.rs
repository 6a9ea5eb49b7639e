//! CRC32C (Castagnoli, as in iSCSI, RFC 3720): detects every burst error up to 32 bits and is one
//! instruction per eight bytes on current processors.
//!
//! A build for fuzzing (`cfg(fuzzing)`, see `fuzz/`) has no checksums: all of them are 0, so that
//! what lies behind one is reached by bytes that a fuzzer has changed.

/// The checksum of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    if cfg!(fuzzing) {
        return 0;
    }
    crc32c::crc32c(bytes)
}

/// The checksum of the concatenation of what `checksum` covers and `bytes`.
#[must_use]
pub fn crc32c_append(checksum: u32, bytes: &[u8]) -> u32 {
    if cfg!(fuzzing) {
        return 0;
    }
    crc32c::crc32c_append(checksum, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_check_value() {
        // The check value of CRC-32/ISCSI in the catalogue of parametrised CRC algorithms.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c_append(crc32c(b"1234"), b"56789"), 0xE306_9283);
    }
}
