//! `index.html`: the whole report as one page that needs nothing but a browser.
//!
//! Style, scripts and numbers are inside; a content security policy lets nothing else in, so the page cannot reach for the
//! network and words from a config cannot run. The scripts read the numbers from one block of JSON ([`data`]).

mod data;
mod headline;
mod policy;

pub use data::{Extra, Rows};

use super::scores::Scores;
use super::statistics::Statistics;
use crate::store::record::RunRecord;

const FRAME: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// Run in this order, as one script.
const SCRIPT: &str = concat!(
    "(() => {\n\"use strict\";\n",
    include_str!("script/base.js"),
    include_str!("script/chart.js"),
    include_str!("script/state.js"),
    include_str!("script/table.js"),
    include_str!("script/compare.js"),
    include_str!("script/alpha.js"),
    include_str!("script/cost.js"),
    include_str!("script/parallel.js"),
    include_str!("script/heat_map.js"),
    include_str!("script/curves.js"),
    include_str!("script/page.js"),
    "})();\n"
);

/// The page of a run, or of several put side by side: then `extra` has what the record lacks.
pub fn page(run: &RunRecord, statistics: &Statistics, scores: &Scores, extra: &Extra) -> String {
    let parts = [
        ("{{policy}}", policy::of(SCRIPT, STYLE)),
        ("{{title}}", text(&run.name)),
        ("{{style}}", STYLE.to_string()),
        ("{{headline}}", headline::of(run, statistics, scores, extra)),
        ("{{data}}", json_block(&data::of(run, statistics, scores, extra))),
        ("{{script}}", SCRIPT.to_string()),
    ];
    // One pass from left to right: what is filled in is never looked through for more places.
    let mut out = String::new();
    let mut rest = FRAME;
    for (place, content) in &parts {
        let (before, after) = rest.split_once(place).unwrap_or((rest, ""));
        out.push_str(before);
        out.push_str(content);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Words as HTML shows them, in text and in quoted attributes.
fn text(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for c in words.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// JSON that may stand inside a `<script>` element: no tag can begin or end in it.
fn json_block(value: &serde_json::Value) -> String {
    let json = value.to_string();
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_the_frame_are_in_the_order_of_the_parts() {
        let mut at = 0;
        for place in ["{{policy}}", "{{title}}", "{{style}}", "{{headline}}", "{{data}}", "{{script}}"] {
            assert_eq!(FRAME.matches(place).count(), 1, "{place}");
            let found = FRAME.find(place).unwrap();
            assert!(found > at, "{place}");
            at = found;
        }
        // Either would end its element early.
        assert!(!SCRIPT.contains("</script") && !STYLE.contains("</style"));
    }

    #[test]
    fn words_cannot_become_markup() {
        let hostile = "</script><b a='1' c=\"2\">&\u{2028}";
        assert_eq!(text(hostile), "&lt;/script&gt;&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;\u{2028}");
        let block = json_block(&serde_json::json!([hostile]));
        assert!(!block.contains(['<', '>', '&', '\u{2028}']), "{block}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&block).unwrap(), [hostile]);
    }
}
