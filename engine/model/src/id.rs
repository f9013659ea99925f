//! Identifiers that nobody can guess and nobody gets twice.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// A new identifier: 64 hexadecimal digits.
pub fn random_id() -> String {
    loop {
        let mut bytes = [0; 32];
        random(&mut bytes);
        let id = hex(&bytes);
        // Twelve digits alone could be taken for a number.
        if !id[..12].bytes().all(|digit| digit.is_ascii_digit()) {
            return id;
        }
    }
}

/// Fills a buffer from the system's source of randomness.
pub fn random(bytes: &mut [u8]) {
    // The system's source fails only where there is none, and then the clock has to do.
    if SystemRandom::new().fill(bytes).is_err() {
        let nanoseconds = jiff::Timestamp::now().as_nanosecond().to_le_bytes();
        bytes.iter_mut().zip(nanoseconds.iter().cycle()).for_each(|(byte, &from)| *byte = from);
    }
}

/// Two digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[digit as usize]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_well_formed() {
        assert_eq!(random_id().len(), 64);
        assert_ne!(random_id(), random_id());
        assert!(random_id().bytes().all(|digit| digit.is_ascii_hexdigit()));
        assert_eq!(hex(&[0, 0x1f, 0xff]), "001fff");
    }
}
