//! Words from a config as Markdown shows them.

use std::collections::BTreeMap;

use crate::store::record::{RunRecord, VariantKind};

/// Text that Markdown shows as it is.
pub fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '&' => out.push_str("&amp;"),
            '|' | '*' | '_' | '~' | '`' | '[' | ']' | '\\' => out.extend(['\\', c]),
            '<' => out.push_str("&lt;"),
            c => out.push(c),
        }
    }
    out
}

/// The record with the words that came from a config escaped.
pub fn record(run: &RunRecord) -> RunRecord {
    let mut run = run.clone();
    let texts = |map: &mut BTreeMap<String, String>| map.values_mut().for_each(|v| *v = self::text(v));
    run.name = self::text(&run.name);
    run.base = self::text(&run.base);
    texts(&mut run.settings);
    run.data.iter_mut().for_each(|(name, _)| *name = self::text(name));
    run.notes.iter_mut().for_each(|note| *note = self::text(note));
    for variant in &mut run.variants {
        variant.label = self::text(&variant.label);
        texts(&mut variant.settings);
        match &mut variant.kind {
            VariantKind::Base => {}
            VariantKind::Trained { trial, .. } => *trial = self::text(trial),
            VariantKind::Averaged { models, .. } => models.iter_mut().for_each(|m| *m = self::text(m)),
            VariantKind::Merged { first, second, .. } => (*first, *second) = (self::text(first), self::text(second)),
        }
    }
    run.published.iter_mut().for_each(|published| published.name = self::text(&published.name));
    for unfinished in &mut run.unfinished {
        let words = [&mut unfinished.label, &mut unfinished.state, &mut unfinished.reason];
        words.into_iter().for_each(|word| *word = self::text(word));
        texts(&mut unfinished.settings);
    }
    if let Some(choice) = &mut run.choice {
        choice.group.iter_mut().chain(&mut choice.runner_up).for_each(|label| *label = self::text(label));
        choice.why = self::text(&choice.why);
    }
    for search in &mut run.searches {
        (search.first, search.second) = (self::text(&search.first), self::text(&search.second));
    }
    run
}
