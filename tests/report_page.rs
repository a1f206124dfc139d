//! What a report writes, as its readers take it: the page and the tables of records made here. `tests/peers/check_page.py` opens
//! such pages in a browser; `EMBEVAL_PAGES=FOLDER cargo test --test report_page` leaves them there for it.

use std::path::Path;

use embeval::store::record::RunRecord;
use serde_json::{Value, json};

/// Draws that are the same everywhere (SplitMix64).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

const TYPES: [&str; 4] = ["STS", "Classification", "Clustering", "Retrieval"];

fn tasks(draws: &mut Draws, many: usize, rows: usize, quality: f64) -> Vec<Value> {
    (0..many)
        .map(|t| {
            let values: Vec<f64> = (0..rows).map(|_| f64::from(u8::from(draws.next() < quality))).collect();
            let kind = TYPES[t % TYPES.len()];
            json!({
                "name": format!("Task{t}{kind}"), "task_type": kind, "metric": "accuracy",
                "main_score": values.iter().sum::<f64>() / rows as f64, "seeds": [], "rows": rows,
                "outcomes": {"kind": "per_example", "values": values},
            })
        })
        .collect()
}

/// A sweep of `many` trials over three axes, with costs, curves, a search for α and an unfinished trial.
fn sweep(many: usize, task_count: usize, rows: usize, points: usize) -> Value {
    let mut draws = Draws(7);
    let ranks = ["4", "8", "16", "32", "64"];
    let mut variants = vec![json!({
        "id": "base", "label": "base", "kind": {"kind": "base"}, "settings": {},
        "dev": tasks(&mut draws, task_count, rows, 0.5), "test": tasks(&mut draws, task_count, rows, 0.5),
    })];
    let mut curves = Vec::new();
    for i in 0..many {
        let (rank, temperature, seed) = (ranks[i % 5], ["0.02", "0.05"][i / 5 % 2], (i / 10).to_string());
        let label = format!("symmetric r{rank} T{temperature} seed {seed}");
        let quality = 0.55 + 0.03 * (i % 5) as f64 + 0.02 * draws.next();
        let tokens = 10_000 * (i % 7 + 1);
        variants.push(json!({
            "id": format!("trial-{i}"), "label": label, "kind": {"kind": "trained", "trial": label, "step": 10, "steps": 10},
            "settings": {"adapter.rank": rank, "loss.temperature": temperature, "train.seed": seed},
            "cost": {"tokens": tokens, "trainable": 1000, "parameters": 22_000_000, "flops": 6e7 * tokens as f64},
            "dev": tasks(&mut draws, task_count, rows, quality), "test": tasks(&mut draws, task_count, rows, quality),
        }));
        let line: Vec<(usize, f64)> = (0..points).map(|s| (s, 2.0 / (s as f64 + 1.0) + 0.1 * draws.next())).collect();
        let few: Vec<(usize, f64)> = line.iter().copied().step_by(points.div_ceil(5).max(1)).collect();
        curves.push(json!({"trial": label, "train_loss": line, "dev_loss": few, "dev_score": few}));
    }
    let seeds: Vec<String> = (0..many.div_ceil(10)).map(|s| s.to_string()).collect();
    let best =
        variants[1..].iter().max_by(|a, b| mean(a).total_cmp(&mean(b))).map(|v| (v["id"].clone(), mean(v))).unwrap();
    let points_of_alpha =
        [0.0, 0.5, 1.0].map(|a: f64| json!({"alpha": a, "score": 0.6 - (a - 0.5).powi(2), "interval": [0.3, 0.7]}));
    json!({
        "name": "synthetic", "base": "tiny", "settings": {"train.epochs": "1"}, "data": [["pairs.jsonl", 1234]],
        "axes": [["adapter.rank", ranks], ["loss.temperature", ["0.02", "0.05"]], ["train.seed", seeds]],
        "variants": variants, "curves": curves,
        "searches": [{
            "first": "a", "second": "b", "chosen": 0.5, "evaluations": 3, "linear_share": 0.0,
            "points": points_of_alpha,
        }],
        "choice": {"id": best.0, "on": "dev", "by": "mean_task", "score": best.1, "why": "highest mean_task on dev"},
        "unfinished": [{
            "label": "symmetric r128", "settings": {"adapter.rank": "128"}, "state": "pruned", "step": 5, "score": 0.4,
            "reason": "below the median of the other trials at step 5",
        }],
        "limit": null, "limits": {}, "protocol": "sklearn-1.9", "notes": ["a note"],
    })
}

fn mean(variant: &Value) -> f64 {
    let scores: Vec<f64> =
        variant["dev"].as_array().unwrap().iter().map(|t| t["main_score"].as_f64().unwrap()).collect();
    scores.iter().sum::<f64>() / scores.len() as f64
}

fn record(value: &Value) -> RunRecord {
    serde_json::from_value(value.clone()).unwrap()
}

/// Writes the report; keeps it where a browser is to look at it.
fn report(name: &str, value: &Value, folder: &Path) -> String {
    embeval::report::write(&record(value), folder).unwrap();
    let page = std::fs::read_to_string(folder.join("index.html")).unwrap();
    if let Some(place) = std::env::var_os("EMBEVAL_PAGES") {
        let place = Path::new(&place).join(name);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("index.html"), &page).unwrap();
    }
    page
}

/// What the page's scripts read.
fn data(page: &str) -> Value {
    let start = page.split_once("id=\"data\">").unwrap().1;
    serde_json::from_str(start.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn the_page_holds_every_score_of_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let value = sweep(12, 5, 40, 30);
    let page = report("sweep", &value, folder.path());
    let data = data(&page);
    assert_eq!(data["variants"].as_array().unwrap().len(), 13);
    let columns = data["sides"]["test"]["columns"].as_array().unwrap();
    let titles: Vec<&str> = columns.iter().map(|c| c["title"].as_str().unwrap()).collect();
    assert_eq!(titles[..6], ["Mean (TaskType)", "Mean (Task)", "STS", "Classification", "Clustering", "Retrieval"]);
    assert_eq!(titles[6..8], ["Task0STS", "Task4STS"]);
    for (i, variant) in value["variants"].as_array().unwrap().iter().enumerate() {
        for task in variant["test"].as_array().unwrap() {
            let column = titles.iter().position(|t| *t == task["name"].as_str().unwrap()).unwrap();
            let shown = data["sides"]["test"]["score"][i][column].as_i64().unwrap();
            let exact = 1e5 * task["main_score"].as_f64().unwrap();
            assert!((shown as f64 - exact).abs() <= 1.5, "{shown} for {exact}");
            let (down, up) = (&data["sides"]["test"]["down"][i][column], &data["sides"]["test"]["up"][i][column]);
            assert!(down.as_i64().unwrap() > 0 && up.as_i64().unwrap() > 0);
        }
    }
    // The order is that of the choice, best first; the chosen has the differences to the base on every column.
    let by_dev = |i: &Value| mean(&value["variants"][i.as_u64().unwrap() as usize]);
    let order: Vec<f64> = data["order"].as_array().unwrap().iter().map(by_dev).collect();
    assert!(order.len() == 13 && order.is_sorted_by(|a, b| *a >= b - 1e-9), "{order:?}");
    assert_eq!(data["variants"][data["chosen"].as_u64().unwrap() as usize]["label"], label_of(&value));
    let pair = format!("{},0", data["chosen"]);
    assert_eq!(data["pairs"]["test"][&pair].as_array().unwrap().len(), columns.len());
    assert!(
        page.contains("Chosen</p>") && page.contains("Mean (Task) on test") && page.contains("1 trial not trained")
    );
    for plot in ["heat-map", "alpha", "effect-adapter-rank", "settings", "cost", "losses", "dev-score"] {
        assert!(folder.path().join(format!("plots/{plot}.png")).is_file(), "{plot}");
    }
    // A training seed is no setting whose effect is drawn.
    assert!(!folder.path().join("plots/effect-train-seed.png").exists());
}

fn label_of(value: &Value) -> Value {
    let all = value["variants"].as_array().unwrap();
    all.iter().find(|v| v["id"] == value["choice"]["id"]).unwrap()["label"].clone()
}

#[test]
fn the_same_record_gives_the_same_bytes() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let value = sweep(4, 3, 20, 10);
    report("same", &value, a.path());
    report("same", &value, b.path());
    let mut files = 0;
    let mut folders = vec![a.path().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let twin = b.path().join(path.strip_prefix(a.path()).unwrap());
            assert!(std::fs::read(&path).unwrap() == std::fs::read(&twin).unwrap(), "{}", path.display());
            files += 1;
        }
    }
    assert!(files > 15, "{files}");
}

#[test]
fn words_of_a_config_stay_words() {
    let folder = tempfile::tempdir().unwrap();
    let hostile = "</script><b onclick=\"x\">'&amp; {{script}} <!-- \u{2028}";
    let mut value = sweep(3, 2, 20, 5);
    let text = value.to_string().replace("symmetric r4 T0.02 seed 0", json!(hostile).to_string().trim_matches('"'));
    value = serde_json::from_str(&text).unwrap();
    for key in ["name", "base"] {
        value[key] = json!(hostile);
    }
    value["notes"] = json!([hostile]);
    value["unfinished"][0]["reason"] = json!(hostile);
    value["choice"]["id"] = json!("trial-0");
    let page = report("hostile", &value, folder.path());
    assert_eq!(page.matches("</script").count(), 2, "a label ends a script");
    assert!(!page.contains("<b onclick") && !page.contains("<!-- "));
    let data = data(&page);
    assert_eq!(data["variants"][1]["label"], json!(hostile));
    assert_eq!((&data["name"], &data["notes"][0]), (&json!(hostile), &json!(hostile)));
    assert!(page.contains("<title>&lt;/script&gt;&lt;b onclick=&quot;x&quot;&gt;&#39;&amp;amp; {{script}}"));
    // Nothing outside, and nothing but the page's own script and style, is let in.
    assert!(page.contains("default-src 'none'; script-src 'sha256-"));
    assert_eq!(
        page.matches("http").count(),
        page.matches("http-equiv").count() + page.matches("http://www.w3.org/2000/svg").count()
    );
    assert!(
        !page.contains("unsafe-inline")
            && !page.contains(" src=")
            && !page.contains("@import")
            && !page.contains("url(")
    );
}

#[test]
fn a_choice_on_test_is_warned_of_before_anything_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut value = sweep(3, 2, 20, 5);
    value["choice"]["on"] = json!("test");
    let page = report("on-test", &value, folder.path());
    let body = page.split_once("<header").unwrap().1;
    let (warning, title) = (body.find("Chosen on test.").unwrap(), body.find("<h1>").unwrap());
    assert!(warning < title);
    assert_eq!(data(&page)["on"], json!("test"));
    let other = report("on-dev", &sweep(3, 2, 20, 5), folder.path());
    assert!(!other.contains("Chosen on test."));
}

#[test]
fn a_large_run_stays_a_small_page() {
    let folder = tempfile::tempdir().unwrap();
    let page = report("large", &sweep(200, 30, 12, 1_000), folder.path());
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
    let data = data(&page);
    assert_eq!((data["variants"].as_array().unwrap().len(), data["curves"].as_array().unwrap().len()), (201, 200));
    // A run beyond that loses intervals of single tasks, no scores.
    let page = report("huge", &sweep(2_000, 3, 12, 10), folder.path());
    assert!(page.len() < 3_000_000, "{} bytes", page.len());
    let data = self::data(&page);
    let side = &data["sides"]["test"];
    let columns = side["columns"].as_array().unwrap().len();
    assert!(side["score"].as_array().unwrap().iter().all(|row| row.as_array().unwrap().len() == columns));
    let whole = side["down"].as_array().unwrap().iter().filter(|row| row.as_array().unwrap().len() == columns).count();
    assert_eq!(whole, 200);
}

#[test]
fn records_of_little_give_pages_of_little() {
    // Nothing chosen, no dev side, a task that one variant lacks, a score that is undefined.
    let folder = tempfile::tempdir().unwrap();
    let mut value = sweep(2, 3, 20, 0);
    value["choice"] = Value::Null;
    value["searches"] = json!([]);
    for variant in value["variants"].as_array_mut().unwrap() {
        variant["dev"] = json!([]);
    }
    value["variants"][1]["test"].as_array_mut().unwrap().pop();
    let page = report("little", &value, folder.path());
    let data = data(&page);
    assert!(page.contains("Nothing could be chosen"));
    assert_eq!((&data["on"], &data["sides"]["dev"]["columns"]), (&json!("test"), &json!([])));
    assert_eq!(data["sides"]["test"]["score"][1][0], Value::Null);
    assert!(data["sides"]["test"]["score"][2][0].is_i64());
    value["variants"] = json!([]);
    report("nothing", &value, folder.path());
}

#[test]
fn the_tables_say_what_the_record_says() {
    let folder = tempfile::tempdir().unwrap();
    let value = sweep(6, 3, 40, 5);
    embeval::report::write(&record(&value), folder.path()).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join("tables").join(name)).unwrap();
    let scores = read("scores.csv");
    assert_eq!(scores.lines().count(), 1 + 7 * 3 * 2);
    assert_eq!(scores.lines().next().unwrap(), "variant,split,task,type,metric,rows,main_score,low,high,seed_mean");
    for line in scores.lines().skip(1) {
        let cells: Vec<f64> = line.split(',').skip(5).map(|c| c.parse().unwrap()).collect();
        assert!(cells[0] == 40.0 && cells[2] <= cells[1] && cells[1] <= cells[3], "{line}");
    }
    let variants = read("variants.csv");
    assert_eq!(variants.lines().filter(|l| l.split(',').nth(5) == Some("1")).count(), 1);
    assert!(read("unfinished.csv").contains("symmetric r128,pruned,5,0.400000,below the median"));
}

#[test]
fn the_parquet_table_is_read_back() {
    use polars::prelude::{ParquetReader, SerReader};
    let folder = tempfile::tempdir().unwrap();
    let path = match std::env::var_os("EMBEVAL_PAGES") {
        Some(place) => Path::new(&place).join("results.parquet"),
        None => folder.path().join("results.parquet"),
    };
    let value = sweep(6, 3, 40, 5);
    embeval::store::results::write(&record(&value), &path).unwrap();
    let frame = ParquetReader::new(std::fs::File::open(&path).unwrap()).finish().unwrap();
    assert_eq!(frame.height(), 7 * 3 * 2);
    let text = |name: &str| -> Vec<Option<String>> {
        frame.column(name).unwrap().str().unwrap().iter().map(|v| v.map(str::to_string)).collect()
    };
    let real = |name: &str| -> Vec<f64> { frame.column(name).unwrap().f64().unwrap().iter().flatten().collect() };
    let (kinds, ranks, steps) =
        (text("kind"), text("setting.adapter.rank"), frame.column("step").unwrap().u64().unwrap());
    for (row, kind) in kinds.iter().enumerate() {
        let is_base = kind.as_deref() == Some("base");
        assert_eq!((ranks[row].is_none(), steps.get(row).is_none()), (is_base, is_base));
    }
    let (low, score, high) = (real("low"), real("main_score"), real("high"));
    assert!((0..score.len()).all(|i| low[i] <= score[i] && score[i] <= high[i]));
    assert_eq!(frame.column("chosen").unwrap().bool().unwrap().iter().filter(|c| *c == Some(true)).count(), 6);
    assert!(real("flops").iter().any(|f| *f > 0.0));
}
