//! The section `search`: how many of the grid's points are trials.

use super::super::reader::Reader;
use super::super::schema::Search;
use super::MOST_TRIALS;

pub(in crate::config) fn read_search(r: &Reader<'_>) -> Search {
    let s = r.section("search");
    let bound = MOST_TRIALS as i64;
    let search = Search {
        sample: s.whole("sample", 1..=bound, "from 1 to 10000"),
        seed: s.whole("seed", 0..=i64::from(u32::MAX), "from 0 to 4294967295").unwrap_or(1) as u32,
        limit: s.whole("limit", 1..=bound, "from 1 to 10000").unwrap_or(MOST_TRIALS),
    };
    if let Some(sample) = search.sample.filter(|&sample| sample > search.limit) {
        s.fault(
            "sample",
            format!("is more than search.limit ({}): draw fewer than {sample}, or raise the limit", search.limit),
        );
    }
    s.finish();
    search
}
