//! Points in time as text.

/// A point in time, seconds since 1970, in ISO 8601 with microseconds, in UTC: `2025-06-30T17:58:28.869439+00:00`. None
/// before 1970 and after the year 9999, which no clock shows.
pub fn iso(seconds: f64) -> Option<String> {
    const END: f64 = 253_402_300_800.0;
    if !(0.0..END).contains(&seconds) {
        return None;
    }
    let micros = (seconds * 1e6) as u64;
    let (days, micros) = (micros / 86_400_000_000, micros % 86_400_000_000);
    let (second, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (year, month, day) = civil(days);
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{micros:06}+00:00",
        second / 3600,
        second / 60 % 60,
        second % 60
    ))
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar. Years are counted from March, so that the leap
/// day is a year's last one and months follow one formula.
fn civil(days: u64) -> (u64, u64, u64) {
    // 719468 days lie between 0000-03-01 and 1970-01-01; 400 years have 146097.
    let (era, day) = ((days + 719_468) / 146_097, (days + 719_468) % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, five months have 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, late) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (400 * era + year + late, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_python() {
        // datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds")
        for (seconds, text) in [
            (0.0, "1970-01-01T00:00:00.000000+00:00"),
            (951_782_400.0, "2000-02-29T00:00:00.000000+00:00"),
            (1_751_306_308.5, "2025-06-30T17:58:28.500000+00:00"),
            (1_709_251_199.25, "2024-02-29T23:59:59.250000+00:00"),
            (4_107_542_400.0, "2100-03-01T00:00:00.000000+00:00"),
            (253_402_300_799.0, "9999-12-31T23:59:59.000000+00:00"),
        ] {
            assert_eq!(iso(seconds).as_deref(), Some(text));
        }
        assert_eq!([-1.0, f64::NAN, 1e300, f64::INFINITY].map(iso), [None, None, None, None]);
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let mut expected = (1970, 1, 1);
        for days in 0..300_000 {
            assert_eq!(civil(days), expected);
            let (year, month, day) = expected;
            let last = match month {
                2 => 28 + u64::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (day == last, month) {
                (false, _) => (year, month, day + 1),
                (true, 12) => (year + 1, 1, 1),
                (true, _) => (year, month + 1, 1),
            };
        }
    }
}
