//! Sizes in bytes as people write them.

/// `500MB`, `4GB`, `1.5 GiB`, `0`: bytes. Units of 1,000 and of 1,024.
///
/// # Errors
/// What is expected, in words.
pub fn parse(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        "tib" => 1_099_511_627_776.0,
        _ => return Err(format!("`{text}` is no size: write 500MB, 4GB or 0")),
    };
    match number.parse::<f64>() {
        Ok(number) => Ok((number * factor) as u64),
        Err(_) => Err(format!("`{text}` is no size: write 500MB, 4GB or 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes() {
        assert_eq!(parse("4GB"), Ok(4_000_000_000));
        assert_eq!(parse(" 1.5 GiB"), Ok(1_610_612_736));
        assert_eq!(parse("0"), Ok(0));
        assert!(parse("four").is_err() && parse("-1GB").is_err() && parse("4 apples").is_err() && parse("").is_err());
    }
}
