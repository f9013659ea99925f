//! Amounts of bytes as people write them.

/// `10m`, `1g`, `512k`, `1048576`, in powers of 1024, with `b` or `ib` behind if one likes.
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let shift = match text[digits..].trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        let sizes = ["10m", "512K", "1 GiB", "100", " 2tb ", "0"].map(size);
        assert_eq!(
            sizes,
            [Some(10 << 20), Some(512 << 10), Some(1 << 30), Some(100), Some(2 << 40), Some(0)]
        );
        for bad in ["", "m", "-1", "1.5g", "10x", "99999999t", "1é"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
