//! What mining found: how many candidates look like answers that nobody marked, and how hard the negatives are.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::choose::{Mined, Reason};
use super::set::MiningSet;
use super::settings::Settings;

/// Candidates of one kind, and the queries that have one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Candidates.
    pub candidates: usize,
    /// Queries that have at least one.
    pub queries: usize,
}

impl Tally {
    fn add(&mut self, candidates: usize) {
        self.candidates += candidates;
        self.queries += usize::from(candidates > 0);
    }
}

/// Where values lie: the mean, and quantiles interpolated as NumPy does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// Mean.
    pub mean: f64,
    /// Smallest.
    pub min: f64,
    /// 5 %.
    pub q05: f64,
    /// 25 %.
    pub q25: f64,
    /// 50 %.
    pub median: f64,
    /// 75 %.
    pub q75: f64,
    /// 95 %.
    pub q95: f64,
    /// Largest.
    pub max: f64,
}

impl Quantiles {
    /// Of values; none where there are none.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let at = |share: f64| {
            let place = share * (values.len() - 1) as f64;
            let (low, high) = (values[place.floor() as usize], values[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Self { mean, min, q05: at(0.05), q25: at(0.25), median: at(0.5), q75: at(0.75), q95: at(0.95), max })
    }

    fn values(&self) -> [f64; 8] {
        [self.mean, self.min, self.q05, self.q25, self.median, self.q75, self.q95, self.max]
    }
}

/// What was found for a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryRecord {
    /// Cosine with its lowest-scoring positive.
    pub positive: f64,
    /// Cosine with its best negative, where it has one.
    pub best_negative: Option<f64>,
    /// Candidates in range.
    pub in_range: u32,
    /// Of those: above the positive; above 95 % of it; above what the margins allow.
    pub above: [u32; 3],
    /// Negatives.
    pub negatives: u32,
    /// Of those: random ones that fill up.
    pub topped_up: u32,
}

/// Totals, and a record a query.
#[derive(Debug, Clone)]
pub struct Report {
    /// The range of ranks.
    pub range: (usize, usize),
    /// Negatives wanted a query.
    pub wanted: usize,
    /// Texts that may become negatives.
    pub candidates: usize,
    /// Candidates in range, of all queries.
    pub in_range: usize,
    /// Those above the query's positive.
    pub above_positive: Tally,
    /// Those above 95 % of it.
    pub above_95: Tally,
    /// Those that the margins do not allow; none where there is no margin.
    pub above_margin: Option<Tally>,
    /// Candidates refused, with the setting's name.
    pub refused: Vec<(&'static str, usize)>,
    /// Negatives, of all queries.
    pub negatives: usize,
    /// Random ones among them that fill up.
    pub topped_up: Tally,
    /// Queries with fewer negatives than wanted.
    pub short: usize,
    /// Queries with none.
    pub without: usize,
    /// Cosines of queries with their lowest-scoring positive.
    pub positive: Option<Quantiles>,
    /// Cosines of queries with their best negative.
    pub best_negative: Option<Quantiles>,
    /// The first less the second.
    pub difference: Option<Quantiles>,
    /// A record a query, in the order of the set.
    pub queries: Vec<QueryRecord>,
    guarded: bool,
}

impl Report {
    pub(super) fn new(set: &MiningSet<'_>, settings: &Settings, range_max: usize) -> Self {
        let margin = settings.absolute_margin.is_some() || settings.relative_margin.is_some();
        Self {
            range: (settings.range_min, range_max),
            wanted: settings.num_negatives,
            candidates: set.candidates(),
            in_range: 0,
            above_positive: Tally::default(),
            above_95: Tally::default(),
            above_margin: margin.then(Tally::default),
            refused: Reason::ALL.map(|reason| (reason.name(), 0)).to_vec(),
            negatives: 0,
            topped_up: Tally::default(),
            short: 0,
            without: 0,
            positive: None,
            best_negative: None,
            difference: None,
            queries: Vec::with_capacity(set.queries().len()),
            guarded: margin || settings.semi_hard || settings.range_min > 0 || settings.max_score.is_some(),
        }
    }

    pub(super) fn add(&mut self, mined: &Mined) {
        let [positive, share, margin] = mined.above;
        self.in_range += mined.in_range;
        self.above_positive.add(positive);
        self.above_95.add(share);
        if let Some(tally) = &mut self.above_margin {
            tally.add(margin);
        }
        for ((_, all), refused) in self.refused.iter_mut().zip(mined.refused) {
            *all += refused;
        }
        self.negatives += mined.negatives.len();
        self.topped_up.add(mined.topped_up);
        self.short += usize::from(mined.negatives.len() < self.wanted);
        self.without += usize::from(mined.negatives.is_empty());
        self.queries.push(QueryRecord {
            positive: mined.positive,
            best_negative: mined.negatives.iter().map(|found| found.score).reduce(f64::max),
            in_range: mined.in_range as u32,
            above: mined.above.map(|count| count as u32),
            negatives: mined.negatives.len() as u32,
            topped_up: mined.topped_up as u32,
        });
    }

    pub(super) fn finish(&mut self) {
        let best = |record: &QueryRecord| record.best_negative;
        self.positive = Quantiles::of(self.queries.iter().map(|record| record.positive));
        self.best_negative = Quantiles::of(self.queries.iter().filter_map(best));
        self.difference = Quantiles::of(self.queries.iter().filter_map(|record| Some(record.positive - best(record)?)));
    }

    /// The totals.
    pub fn as_json(&self) -> Value {
        let refused: Map<String, Value> = self.refused.iter().map(|&(name, n)| (name.into(), n.into())).collect();
        json!({
            "queries": self.queries.len(),
            "candidates": self.candidates,
            "range": [self.range.0, self.range.1],
            "wanted": self.wanted,
            "in_range": self.in_range,
            "above_positive": self.above_positive,
            "above_95_percent": self.above_95,
            "above_margin": self.above_margin,
            "refused": refused,
            "negatives": self.negatives,
            "topped_up": {"negatives": self.topped_up.candidates, "queries": self.topped_up.queries},
            "queries_with_fewer": self.short,
            "queries_without": self.without,
            "positive": self.positive,
            "best_negative": self.best_negative,
            "positive_minus_best_negative": self.difference,
        })
    }

    /// Writes one JSON document: `head`, the totals, and under `per_query` a record a query.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, head: &Map<String, Value>, set: &MiningSet<'_>, mut out: impl Write) -> io::Result<()> {
        let mut all = head.clone();
        if let Value::Object(totals) = self.as_json() {
            all.extend(totals);
        }
        // A record at a time: there may be millions.
        let text = serde_json::to_string_pretty(&all)?;
        out.write_all(text.strip_suffix("\n}").unwrap_or(&text).as_bytes())?;
        out.write_all(b",\n  \"per_query\": [")?;
        for (number, (record, query)) in self.queries.iter().zip(set.queries()).enumerate() {
            out.write_all(if number == 0 { b"\n    " } else { b",\n    " })?;
            let [positive, share, margin] = record.above;
            let line = json!({
                "query": query,
                "positive": record.positive as f32,
                "best_negative": record.best_negative.map(|score| score as f32),
                "in_range": record.in_range,
                "above_positive": positive,
                "above_95_percent": share,
                "above_margin": self.above_margin.map(|_| margin),
                "negatives": record.negatives,
                "topped_up": record.topped_up,
            });
            serde_json::to_writer(&mut out, &line)?;
        }
        out.write_all(b"\n  ]\n}\n")
    }

    /// The totals as aligned text, with advice where candidates look like answers or negatives are missing.
    pub fn as_table(&self) -> String {
        let queries = self.queries.len();
        let wanted = queries.saturating_mul(self.wanted);
        let share = |part: usize, all: usize| 100.0 * part as f64 / all.max(1) as f64;
        let mut out = String::new();
        let mut line = |name: &str, candidates: usize, of: usize, queries_with: usize| {
            out.push_str(&format!(
                "{name:<32} {candidates:>12} {:>6.2} %   {queries_with:>10} queries {:>6.2} %\n",
                share(candidates, of),
                share(queries_with, queries)
            ));
        };
        let with_candidates = self.queries.iter().filter(|record| record.in_range > 0).count();
        line("candidates in range", self.in_range, self.in_range, with_candidates);
        line("  above the positive", self.above_positive.candidates, self.in_range, self.above_positive.queries);
        line("  above 95 % of the positive", self.above_95.candidates, self.in_range, self.above_95.queries);
        if let Some(tally) = self.above_margin {
            line("  above positive less margin", tally.candidates, self.in_range, tally.queries);
        }
        line("negatives", self.negatives, wanted, queries - self.without);
        if self.topped_up.candidates > 0 {
            line("  random ones that fill up", self.topped_up.candidates, self.negatives, self.topped_up.queries);
        }
        line("  missing", wanted.saturating_sub(self.negatives), wanted, self.short);
        out.push_str(&self.distribution());
        for (name, count) in self.refused.iter().filter(|(_, count)| *count > 0) {
            out.push_str(&format!("{count} candidates were refused by {name}\n"));
        }
        out.push_str(&self.advice());
        out
    }

    fn distribution(&self) -> String {
        let rows = [
            ("positive", self.positive),
            ("best negative", self.best_negative),
            ("positive less best negative", self.difference),
        ];
        let names = ["mean", "min", "5 %", "25 %", "50 %", "75 %", "95 %", "max"];
        let mut out = format!("{:<28}", "cosines of a query");
        names.iter().for_each(|name| out.push_str(&format!(" {name:>8}")));
        out.push('\n');
        for (name, quantiles) in rows {
            out.push_str(&format!("  {name:<26}"));
            match quantiles {
                Some(quantiles) => quantiles.values().iter().for_each(|value| out.push_str(&format!(" {value:>8.4}"))),
                None => out.push_str("        -"),
            }
            out.push('\n');
        }
        out
    }

    fn advice(&self) -> String {
        let mut out = String::new();
        if !self.guarded && self.above_positive.queries * 20 > self.queries.len() {
            out.push_str(
                "candidates above the positive are often answers that nobody marked: --relative-margin 0.05 (or --range-min 10) leaves them out\n",
            );
        }
        if self.short > 0 {
            out.push_str(
                "some queries have fewer negatives than wanted: a wider range, a smaller margin, a larger pool or --top-up gives more\n",
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_numpys() {
        // numpy.quantile([1, 2, 4, 8], [0.05, 0.25, 0.5, 0.75, 0.95]).
        let q = Quantiles::of([8.0, 1.0, 4.0, 2.0].into_iter()).unwrap();
        let expected = [3.75, 1.0, 1.15, 1.75, 3.0, 5.0, 7.4, 8.0];
        assert!(q.values().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{q:?}");
        assert_eq!(Quantiles::of([0.5].into_iter()).unwrap().q95, 0.5);
        assert!(Quantiles::of(std::iter::empty()).is_none());
    }
}
