//! Bytes, times and rules of runs in words.

use std::path::Path;

use crate::config::Document;
use crate::store::survey::Rule;

/// `1.2 GB`.
pub fn bytes(bytes: u64) -> String {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match units.into_iter().find(|(_, factor)| bytes as f64 >= *factor) {
        Some((unit, factor)) => format!("{:.1} {unit}", bytes as f64 / factor),
        None => format!("{bytes} B"),
    }
}

/// `2 h 5 min`, `40 s`.
pub fn duration(seconds: f64) -> String {
    let all = seconds.max(0.0).round() as u64;
    let (days, hours, minutes) = (all / 86_400, all / 3_600 % 24, all / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds < 10.0 => format!("{seconds:.1} s"),
        (0, 0, 0) => format!("{all} s"),
        (0, 0, _) => format!("{minutes} min {} s", all % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// `5 min ago`; `now` below a minute.
pub fn ago(seconds: u64) -> String {
    match seconds {
        0..60 => "now".into(),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// The rule of a run's config; the default's where the config cannot be read, with the reason.
pub fn rule(root: &Path) -> (Rule, Option<String>) {
    let path = root.join("config.yaml");
    // Only `choose` is asked for: models that have moved since are none of its business.
    let elsewhere = [
        "base={scratch: {layers: 1}}",
        "loss={name: info_nce}",
        "data={train: a.jsonl, dev: a.jsonl}",
        "score.published=[]",
    ]
    .map(String::from);
    match Document::load(&path, &elsewhere).and_then(|document| document.check()) {
        Ok(config) => {
            let on = if config.choose.on_test { "test" } else { "dev" };
            (Rule { by: config.choose.by.name().into(), on: on.into() }, None)
        }
        Err(e) => {
            let rule = Rule::default();
            let why = e.0.first().map_or_else(|| path.display().to_string(), |e| format!("{}: {}", e.place, e.message));
            let fault = format!("{why}: the best is told by {} on {}", rule.by, rule.on);
            (rule, Some(fault))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_bytes_and_times() {
        assert_eq!([bytes(999), bytes(1_000), bytes(388_000_000)], ["999 B", "1.0 kB", "388.0 MB"]);
        let times = [0.26, 59.0, 61.0, 3_700.0, 200_000.0].map(duration);
        assert_eq!(times, ["0.3 s", "59 s", "1 min 1 s", "1 h 1 min", "2 d 7 h"]);
        assert_eq!([ago(0), ago(60), ago(7_300), ago(400_000)], ["now", "1 min ago", "2 h ago", "4 d ago"]);
    }
}
