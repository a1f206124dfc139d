//! The card of the shipped model: metadata in the hub's form, and what a reader must know. A pure function of the run's record
//! and of a few facts: no dates, no paths of a machine.
//!
//! The metadata follows the hub's model card specification (`modelcard.md` of hub-docs); a result's task type is the hub's
//! word that mteb uses for it (`TaskMetadata._hf_task_type`).

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::store::record::{RunRecord, TaskRecord, Variant, VariantKind};
use crate::store::scoring::{REPLICATES, Scored, Seeds};

/// The base.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BaseFacts {
    /// `org/name` on the hub; none of a folder, or of a model made from nothing.
    pub id: Option<String>,
    /// The folder's name, or what it was made as.
    pub name: String,
    /// Whether it was made from nothing.
    pub from_nothing: bool,
    /// Its licence, where its card says so.
    pub licence: Option<String>,
}

/// The shipped model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelFacts {
    /// Width of the embeddings.
    pub dimensions: usize,
    /// Most tokens of a text.
    pub max_length: usize,
    /// Number of weights.
    pub parameters: usize,
    /// Similarity that it declares.
    pub similarity: String,
    /// Its named prompts.
    pub prompts: BTreeMap<String, String>,
    /// The prompt that is used where none is asked for.
    pub default_prompt: Option<String>,
    /// Prompts before queries and documents that it was trained with, where the config gave them.
    pub trained_prompts: (Option<String>, Option<String>),
    /// Whether mteb registers prompts for the base, which the scores were made with.
    pub registered_prompts: bool,
}

/// How the shipped model was put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shipped {
    /// The untouched base.
    Base,
    /// A checkpoint, or a merge, as it is.
    Copy,
    /// An adapter merged into the base, `adapter/` beside; how the base was quantised while it was trained and scored.
    Adapter {
        /// Such as `nf4`.
        quantized: Option<String>,
    },
}

/// A task's facts that its record does not have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskFacts {
    /// Its name.
    pub name: String,
    /// Languages, such as `rus-Cyrl`.
    pub languages: Vec<String>,
    /// The hub's data set; none of files.
    pub dataset: Option<String>,
    /// Its configuration there.
    pub config: Option<String>,
    /// Its commit there.
    pub revision: Option<String>,
    /// The splits whose mean the score is.
    pub splits: Vec<String>,
}

/// All that a card is made of.
pub struct Card<'a> {
    /// The run.
    pub record: &'a RunRecord,
    /// The shipped variant.
    pub variant: &'a Variant,
    /// The base.
    pub base: BaseFacts,
    /// The model.
    pub model: ModelFacts,
    /// How it was put together.
    pub shipped: Shipped,
    /// The tasks, in order.
    pub tasks: Vec<TaskFacts>,
    /// Data sets of the hub that it was trained on.
    pub datasets: Vec<String>,
}

/// ISO 639-3 codes that the hub knows by two letters.
const LANGUAGES: [(&str, &str); 38] = [
    ("ara", "ar"),
    ("bel", "be"),
    ("ben", "bn"),
    ("bul", "bg"),
    ("ces", "cs"),
    ("cmn", "zh"),
    ("dan", "da"),
    ("deu", "de"),
    ("ell", "el"),
    ("eng", "en"),
    ("est", "et"),
    ("fas", "fa"),
    ("fin", "fi"),
    ("fra", "fr"),
    ("heb", "he"),
    ("hin", "hi"),
    ("hun", "hu"),
    ("hye", "hy"),
    ("ind", "id"),
    ("ita", "it"),
    ("jpn", "ja"),
    ("kat", "ka"),
    ("kaz", "kk"),
    ("kor", "ko"),
    ("lit", "lt"),
    ("nld", "nl"),
    ("pol", "pl"),
    ("por", "pt"),
    ("ron", "ro"),
    ("rus", "ru"),
    ("spa", "es"),
    ("srp", "sr"),
    ("swe", "sv"),
    ("tat", "tt"),
    ("tur", "tr"),
    ("ukr", "uk"),
    ("vie", "vi"),
    ("zho", "zh"),
];

/// The hub's word for a task type.
fn hub_task(task_type: &str) -> &'static str {
    match task_type {
        "STS" => "sentence-similarity",
        "Retrieval" => "text-retrieval",
        "Reranking" => "text-ranking",
        "BitextMining" => "translation",
        _ => "text-classification",
    }
}

/// Text as YAML reads it back as text: as it is where that is plain, else quoted as JSON does, which YAML reads alike.
fn yaml(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    let word = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    if plain && !word.contains(&text.to_ascii_lowercase().as_str()) {
        text.into()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

/// Text of a config in a line of Markdown, as code.
fn code(text: &str) -> String {
    format!("`{}`", no_path(text).replace('`', "'").replace(['\n', '\r'], " "))
}

/// A cell of a table, as code.
fn cell(text: &str) -> String {
    code(text).replace('|', "\\|")
}

/// Of a path of this machine its last name.
fn no_path(text: &str) -> &str {
    let is_path = ["/", "~/", "./", "../"].iter().any(|start| text.starts_with(start));
    if is_path { text.trim_end_matches('/').rsplit('/').next().unwrap_or(text) } else { text }
}

impl Card<'_> {
    /// `README.md`.
    pub fn text(&self) -> String {
        let mut out = String::from("---\n");
        self.metadata(&mut out);
        out.push_str("---\n\n");
        let _ = writeln!(out, "# {}\n", self.record.name.replace(['\n', '\r'], " "));
        self.summary(&mut out);
        self.making(&mut out);
        self.usage(&mut out);
        self.scores(&mut out);
        self.choice(&mut out);
        self.limits(&mut out);
        self.licence(&mut out);
        out
    }

    fn metadata(&self, out: &mut String) {
        let mut languages: Vec<&str> = Vec::new();
        for language in self.tasks.iter().flat_map(|task| &task.languages) {
            let code = language.split('-').next().unwrap_or_default();
            let code = LANGUAGES.iter().find(|(three, _)| *three == code).map_or(code, |(_, two)| two);
            if !languages.contains(&code) && (2..=3).contains(&code.len()) {
                languages.push(code);
            }
        }
        if !languages.is_empty() {
            out.push_str("language:\n");
            languages.iter().for_each(|code| _ = writeln!(out, "- {}", yaml(code)));
        }
        if let Some(licence) = &self.base.licence {
            let _ = writeln!(out, "license: {}", yaml(licence));
        }
        out.push_str("library_name: sentence-transformers\npipeline_tag: sentence-similarity\ntags:\n");
        for tag in ["sentence-transformers", "sentence-similarity", "feature-extraction", "embeval"] {
            let _ = writeln!(out, "- {tag}");
        }
        if !self.base.from_nothing {
            let id = self.base.id.as_deref().unwrap_or(&self.base.name);
            let _ = writeln!(out, "base_model: {}", yaml(id));
            match self.variant.kind {
                VariantKind::Base => {}
                VariantKind::Trained { .. } => out.push_str("base_model_relation: finetune\n"),
                VariantKind::Merged { .. } | VariantKind::Averaged { .. } => {
                    out.push_str("base_model_relation: merge\n")
                }
            }
        }
        if !self.datasets.is_empty() {
            out.push_str("datasets:\n");
            self.datasets.iter().for_each(|id| _ = writeln!(out, "- {}", yaml(id)));
        }
        self.index(out);
    }

    /// `model-index`: the main score of each task on test, a fraction, as mteb gives it.
    fn index(&self, out: &mut String) {
        if self.variant.test.is_empty() {
            return;
        }
        let _ = writeln!(out, "model-index:\n- name: {}\n  results:", yaml(&self.record.name));
        let mut seen: Vec<[String; 4]> = Vec::new();
        for task in self.variant.test.iter().filter(|task| task.main_score.is_finite()) {
            let facts = self.tasks.iter().find(|facts| facts.name == task.name);
            let of = |f: fn(&TaskFacts) -> Option<&String>| facts.and_then(f).cloned();
            let (hub, config) = (hub_task(&task.task_type), of(|f| f.config.as_ref()).unwrap_or("default".into()));
            let split = facts.map(|f| f.splits.join("+")).filter(|s| !s.is_empty()).unwrap_or("test".into());
            // Readers of the index tell results apart by these; tasks that share a data set must not become one.
            let mut dataset = of(|f| f.dataset.as_ref()).unwrap_or(task.name.clone());
            let key = |dataset: &str| [hub.to_string(), dataset.to_string(), config.clone(), split.clone()];
            if seen.contains(&key(&dataset)) {
                dataset.clone_from(&task.name);
            }
            seen.push(key(&dataset));
            let name = match self.limit_of(&task.name) {
                Some(rows) => format!("{} (at most {rows} rows)", task.name),
                None => task.name.clone(),
            };
            let _ = writeln!(out, "  - task:\n      type: {hub}\n      name: {}", yaml(&task.task_type));
            let _ = writeln!(out, "    dataset:\n      type: {}\n      name: {}", yaml(&dataset), yaml(&name));
            let _ = writeln!(out, "      config: {}\n      split: {}", yaml(&config), yaml(&split));
            if let Some(revision) = of(|f| f.revision.as_ref()) {
                let _ = writeln!(out, "      revision: {}", serde_json::Value::from(revision));
            }
            let (metric, value) = (yaml(&task.metric), task.main_score);
            let _ = writeln!(out, "    metrics:\n    - type: {metric}\n      name: {metric}\n      value: {value:.6}");
            out.push_str("      verified: false\n");
        }
    }

    fn limit_of(&self, task: &str) -> Option<usize> {
        self.record.limits.get(task).copied().or(self.record.limit)
    }

    /// The base's name, as a link where the hub has it.
    fn base_name(&self) -> String {
        match &self.base.id {
            Some(id) => format!("[{id}](https://huggingface.co/{id})"),
            None if self.base.from_nothing => format!("a model {}", self.base.name),
            None => code(&self.base.name),
        }
    }

    fn summary(&self, out: &mut String) {
        let base = self.base_name();
        let what = match &self.variant.kind {
            VariantKind::Base => format!("{base}, unchanged: no trained variant of the run scored higher"),
            VariantKind::Trained { .. } => format!("{base}, fine-tuned"),
            VariantKind::Merged { .. } => format!("a merge (SLERP) of two fine-tuned models of {base}"),
            VariantKind::Averaged { .. } => format!("a weighted mean of fine-tuned models of {base}"),
        };
        let m = &self.model;
        let _ = writeln!(
            out,
            "A sentence-transformers model that maps texts to vectors of {} values: {what}. Made, chosen and scored with embeval; in \
             the run's report it is {}.\n",
            m.dimensions,
            code(&self.variant.label)
        );
        let _ = writeln!(out, "- Longest text: {} tokens\n- Weights: {}", m.max_length, m.parameters);
        let _ = writeln!(out, "- Similarity: {}", m.similarity.replace(['\n', '\r'], " "));
    }

    fn making(&self, out: &mut String) {
        out.push_str("\n## How it was made\n\n");
        let _ = writeln!(out, "- Base: {}", self.base_name());
        if self.base.id.is_none() && !self.base.from_nothing {
            out.push_str("  (a folder of this name; put its id on the hub into `base_model` before you publish)\n");
        }
        match &self.variant.kind {
            VariantKind::Base => {
                out.push_str("- Nothing was trained into it: this is a copy of the base.\n");
                return;
            }
            VariantKind::Trained { step, steps, .. } => {
                let _ = writeln!(out, "- Checkpoint: step {step} of {steps}");
            }
            VariantKind::Merged { first, second, alpha, auto, layers } => {
                let how = if *auto { "found on the side that the choice was made on" } else { "given" };
                let _ = writeln!(
                    out,
                    "- Merge: SLERP of {} (α = 0) and {} (α = 1) at α = {alpha:.4}, {how}",
                    code(first),
                    code(second)
                );
                if let Some(layers) = layers {
                    let values: Vec<String> = layers.iter().map(|a| format!("{a:.3}")).collect();
                    let _ = writeln!(out, "- α by layer, from the first: {}", values.join(", "));
                }
                self.part(out, first);
                self.part(out, second);
            }
            VariantKind::Averaged { models, weights } => {
                let parts: Vec<String> = models
                    .iter()
                    .zip(weights)
                    .map(|(model, weight)| format!("{} ({weight:.4})", code(model)))
                    .collect();
                let _ = writeln!(out, "- Weighted mean of {}", parts.join(", "));
                models.iter().for_each(|model| self.part(out, model));
            }
        }
        let data: Vec<String> =
            self.record.data.iter().map(|(name, rows)| format!("{} ({rows} rows)", code(name))).collect();
        let _ = writeln!(out, "- Training data: {}", if data.is_empty() { "none".into() } else { data.join(", ") });
        match &self.shipped {
            Shipped::Adapter { quantized } => {
                out.push_str("- The adapter is merged into the base's own weights; by itself it is in `adapter/`.\n");
                if let Some(kind) = quantized {
                    let _ = writeln!(
                        out,
                        "- It was trained on the base in {kind}, and **the scores below are those of the quantised base with the \
                         adapter on top**; the merged weights here give slightly other embeddings."
                    );
                }
            }
            Shipped::Base | Shipped::Copy => {}
        }
        out.push_str("\n| Setting | Value |\n| --- | --- |\n");
        let own = self.variant.settings.iter();
        let all: BTreeMap<&String, &String> = self.record.settings.iter().chain(own).collect();
        for (key, value) in all {
            let _ = writeln!(out, "| {} | {} |", cell(key), cell(value));
        }
    }

    /// The settings of a model that a merge is made of, which its own do not say.
    fn part(&self, out: &mut String, label: &str) {
        let is_it = |v: &&Variant| matches!(&v.kind, VariantKind::Trained { trial, step, steps } if trial == label && step == steps);
        let Some(part) = self.record.variants.iter().find(is_it) else { return };
        let settings: Vec<String> = part.settings.iter().map(|(k, v)| code(&format!("{k} = {}", no_path(v)))).collect();
        if !settings.is_empty() {
            let _ = writeln!(out, "- {}: {}", code(label), settings.join(", "));
        }
    }

    fn usage(&self, out: &mut String) {
        out.push_str("\n## How to use it\n\n```python\nfrom sentence_transformers import SentenceTransformer\n\n");
        let m = &self.model;
        let _ = writeln!(
            out,
            "model = SentenceTransformer(\"best\")  # this folder; texts are cut at {} tokens",
            m.max_length
        );
        let literal = |text: &str| serde_json::Value::from(text).to_string();
        let named = |names: &[&str]| {
            names.iter().find(|name| m.prompts.contains_key(**name)).map(|n| format!(", prompt_name=\"{n}\""))
        };
        let prompt = |given: &Option<String>, names: &[&str]| match given {
            Some(text) if !text.is_empty() => format!(", prompt={}", literal(text)),
            _ => named(names).unwrap_or_default(),
        };
        let query = prompt(&m.trained_prompts.0, &["query"]);
        let document = prompt(&m.trained_prompts.1, &["document", "passage"]);
        if query == document {
            let _ = writeln!(out, "embeddings = model.encode([\"first text\", \"second text\"]{query})");
            out.push_str("print(model.similarity(embeddings, embeddings))\n```\n");
        } else {
            let _ = writeln!(out, "queries = model.encode([\"a query\"]{query})");
            let _ = writeln!(out, "documents = model.encode([\"a document\", \"another one\"]{document})");
            out.push_str("print(model.similarity(queries, documents))\n```\n");
        }
        if !m.prompts.is_empty() {
            out.push_str("\n| Prompt | Text |\n| --- | --- |\n");
            for (name, text) in &m.prompts {
                let default = if m.default_prompt.as_ref() == Some(name) { " (default)" } else { "" };
                let _ = writeln!(out, "| {}{default} | {} |", cell(name), cell(&literal(text)));
            }
        }
        if m.registered_prompts {
            out.push_str("\nThe scores were made with the prompts that mteb registers for the base.\n");
        }
    }

    fn scores(&self, out: &mut String) {
        out.push_str("\n## Scores\n\n");
        let base = self.record.variants.iter().find(|v| v.kind == VariantKind::Base && v.id != self.variant.id);
        let (title, rule) = if base.is_some() { (" Base, test |", " ---: |") } else { ("", "") };
        let _ = writeln!(out, "| Task | Type | Metric | Test | 95 % interval |{title} Dev | 95 % interval |");
        let _ = writeln!(out, "| --- | --- | --- | ---: | ---: |{rule} ---: | ---: |");
        let test = Scored::new(&self.variant.test, Seeds::Published);
        let dev = Scored::new(&self.variant.dev, Seeds::Mean);
        let find = |records: &[TaskRecord], name: &str| records.iter().find(|t| t.name == name).cloned();
        let mut names: Vec<&TaskRecord> = self.variant.test.iter().collect();
        names.extend(self.variant.dev.iter().filter(|t| find(&self.variant.test, &t.name).is_none()));
        for task in names {
            let side = |scored: &Scored<'_>| format!(" {} |", with_interval(scored, &task.name));
            let of_base = base.map_or(String::new(), |base| match find(&base.test, &task.name) {
                Some(found) => format!(" {} |", points(found.main_score)),
                None => " – |".into(),
            });
            let (name, kind, metric) = (cell(&task.name), &task.task_type, cell(&task.metric));
            let (test, dev) = (side(&test), side(&dev));
            let _ = writeln!(out, "| {name} | {kind} | {metric} |{test}{of_base}{dev}");
        }
        for (name, by) in [("Mean (Task)", "mean_task"), ("Mean (TaskType)", "mean_task_type")] {
            let side = |scored: &Scored<'_>| format!(" {} |", with_interval(scored, by));
            let of_base = base.map_or(String::new(), |base| {
                let mean = Scored::new(&base.test, Seeds::Published).mean(by);
                format!(" {} |", mean.map_or_else(|| "–".into(), |mean| points(mean.value)))
            });
            let (test, dev) = (side(&test), side(&dev));
            let _ = writeln!(out, "| **{name}** | | |{test}{of_base}{dev}");
        }
        let seeds = self.variant.dev.iter().map(|t| t.seeds.len() + 1).max().unwrap_or(1);
        let dev = if seeds > 1 {
            format!("dev scores are means over {seeds} protocol seeds")
        } else {
            "so are dev scores".into()
        };
        let _ = writeln!(
            out,
            "\nIn points (hundredths). Test scores are those at mteb's seed; {dev}. Intervals are of {REPLICATES} \
             bootstrap replicates over what was evaluated (BCa, Efron 1987; Student's where there are few experiments); how much a repeated training would differ is not in them."
        );
    }

    fn choice(&self, out: &mut String) {
        let Some(choice) = &self.record.choice else { return };
        out.push_str("\n## How it was chosen\n\n");
        if choice.on == "test" {
            out.push_str("**On test**: the test scores above are too high by that choice.\n\n");
        }
        let unseen = if choice.on == "dev" { " The test side had no part in it." } else { "" };
        let _ = writeln!(
            out,
            "By {} on {}: {} points; {}.{unseen}",
            code(&choice.by),
            choice.on,
            points(choice.score),
            choice.why.replace(['\n', '\r'], " ")
        );
    }

    fn limits(&self, out: &mut String) {
        out.push_str("\n## Limits\n\n");
        let record = self.record;
        if let Some(rows) = record.limit {
            let _ = writeln!(
                out,
                "- At most {rows} rows of a split were scored: the scores are not those of the whole tasks."
            );
        }
        for (task, rows) in &record.limits {
            let _ = writeln!(out, "- Of {} at most {rows} rows were scored.", code(task));
        }
        let _ = writeln!(out, "- Protocol: mteb's, with the draws of {}.", record.protocol.replace(['\n', '\r'], " "));
        out.push_str("- Nothing is known of texts, languages and tasks other than those above.\n");
    }

    fn licence(&self, out: &mut String) {
        out.push_str("\n## Licence\n\n");
        let _ = match (&self.base.licence, self.base.from_nothing) {
            (Some(licence), _) => writeln!(
                out,
                "The base's card says {}. Whether that of the training data allows this use is not known here.",
                code(licence)
            ),
            (None, true) => {
                writeln!(out, "Unknown: the model was made from nothing, of the training data named above.")
            }
            (None, false) => writeln!(out, "Unknown: see the base, {}.", self.base_name()),
        };
    }
}

fn points(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    // Never "-0.00".
    format!("{:.2}", (1e4 * value).round() / 100.0 + 0.0)
}

/// A mean, or a task's score, and its interval.
fn with_interval(scored: &Scored<'_>, by: &str) -> String {
    let Some(mean) = scored.mean(by) else { return "– | –".into() };
    let (low, high) = mean.interval();
    let interval = if low.is_finite() { format!("{} to {}", points(low), points(high)) } else { "–".into() };
    format!("{} | {interval}", points(mean.value))
}
