//! From rows to batches of token ids, a batch at a time: drawn by the seed and the batch's place, tokenized when needed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::TrainError;
use super::sampler::{self, Sampler};
use crate::data::training::{Form, Subset, TrainingRow, text_hash};
use crate::model::TextTokenizer;
use crate::objective::criterion::Needs;
use crate::objective::tsdae::Noise;
use crate::objective::{Example, Text};

/// A set of training rows with what a run does with them.
pub struct Source {
    /// Its name in messages.
    pub name: String,
    /// The rows that are used.
    pub rows: Subset,
    /// Rows used per epoch, as a multiple of those there are.
    pub weight: f64,
    /// Prompts before queries and documents.
    pub prompts: (String, String),
}

/// How many negatives a row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// This many at the most; rows with fewer have those they have.
    HardNegatives(usize),
    /// This many texts with the positive; too few negatives are repeated (FlagEmbedding's rule).
    Group(usize),
}

/// What makes examples of rows.
pub struct Preparation {
    /// Tokenizers of queries and documents, with their limits.
    pub tokenizers: (TextTokenizer, TextTokenizer),
    /// A guide's tokenizer, and its prompts of queries and documents.
    pub guide: Option<(TextTokenizer, [String; 2])>,
    /// Whether both sides are prepared alike, a row's own prompt included.
    pub both_alike: bool,
    /// Whether pooling sees the prompt's tokens.
    pub include_prompt: bool,
    /// What the loss needs of a row.
    pub needs: Needs,
    /// How many negatives a row has.
    pub draw: Draw,
    /// TSDAE's noise and the tokenizer's mask.
    pub noise: Option<(Noise, Option<String>)>,
    /// Classes by label, and how often each occurs.
    pub classes: BTreeMap<String, (u32, usize)>,
    /// Seed of order and draws.
    pub seed: u64,
}

/// Batches of several sets.
pub struct Batches<'a> {
    sources: &'a [Source],
    sampler: Sampler,
    preparation: &'a Preparation,
    prompt_tokens: Mutex<HashMap<String, usize>>,
}

/// Rows of a batch: (set, row).
pub type Batch = Vec<(usize, usize)>;

/// Place of the draws of dev rows, beyond those of any batch.
const DEV: u64 = 1 << 63;

/// A row's texts before they are tokenized.
struct Drawn {
    row: TrainingRow,
    source: usize,
    positive: Option<usize>,
    negatives: Vec<usize>,
    damaged: Option<String>,
}

/// Refuses sets whose rows are not what the loss needs.
///
/// # Errors
/// The set, what it has, and what is needed.
pub fn check_form(source: &Source, needs: Needs, draw: Draw, loss: &str) -> Result<(), TrainError> {
    let form = source.rows.form();
    if let (Draw::Group(size), Form::Pairs { negatives: (0, _), .. }) = (draw, form) {
        return Err(TrainError::Data(format!(
            "{}: some rows have no negative, but loss.group_size {size} fills every row's group: use loss.hard_negatives, or \
             `embeval mine` to find some",
            source.name
        )));
    }
    let fits = match (needs, form) {
        (Needs::Pairs, Form::Pairs { .. }) => true,
        (Needs::Triplets, Form::Pairs { negatives, .. }) => negatives.0 > 0,
        (Needs::Teacher, Form::Pairs { teacher, negatives }) => teacher && negatives.0 > 0,
        (Needs::Scores, Form::Scored) | (Needs::Labels, Form::Labelled) => true,
        (Needs::Texts, Form::Texts | Form::Labelled) => true,
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let needed = match needs {
        Needs::Pairs => "pairs (query and pos, or anchor and positive)",
        Needs::Triplets => "pairs whose every row has a negative (neg, or negative); `embeval mine` finds some",
        Needs::Teacher => "a teacher's pos_scores and neg_scores beside pos and neg, in every row",
        Needs::Scores => "two sentences with their similarity (sentence1, sentence2, score)",
        Needs::Labels => "texts with a label (text, label)",
        Needs::Texts => "plain texts (a text a line, or a column text)",
    };
    let has = match form {
        Form::Pairs { negatives, .. } if needs == Needs::Triplets => {
            format!("pairs with {} to {} negatives", negatives.0, negatives.1)
        }
        Form::Pairs { .. } => "pairs".to_string(),
        Form::Scored => "scored pairs".to_string(),
        Form::Labelled => "labelled texts".to_string(),
        Form::Texts => "plain texts".to_string(),
    };
    Err(TrainError::Data(format!("{}: holds {has}, but {loss} needs {needed}", source.name)))
}

/// The classes of labelled sets in the order of their names, and how often each occurs.
///
/// # Errors
/// Where a set cannot be read.
pub fn classes(sources: &[Source]) -> Result<BTreeMap<String, (u32, usize)>, TrainError> {
    let mut counts: BTreeMap<String, (u32, usize)> = BTreeMap::new();
    for source in sources {
        for row in 0..source.rows.len() {
            if let Some(label) = source.rows.row(row)?.label {
                counts.entry(label).or_default().1 += 1;
            }
        }
    }
    for (number, (_, class)) in counts.iter_mut().enumerate() {
        class.0 = number as u32;
    }
    Ok(counts)
}

impl<'a> Batches<'a> {
    /// Of these sets; `sampler` says which rows make a batch.
    pub fn new(sources: &'a [Source], sampler: Sampler, preparation: &'a Preparation) -> Self {
        Self { sources, sampler, preparation, prompt_tokens: Mutex::default() }
    }

    /// Rows of all sets.
    pub fn rows(&self) -> usize {
        self.sources.iter().map(|source| source.rows.len()).sum()
    }

    /// Batches of an epoch.
    pub fn per_epoch(&self) -> usize {
        self.sampler.batches_per_epoch()
    }

    /// Texts of a batch that fill their side's limit, out of all.
    pub fn truncated(&self, batch: &[Example]) -> (usize, usize) {
        let limits = &self.preparation.tokenizers;
        let documents = |e: &Example| {
            e.positive.iter().chain(&e.negatives).filter(|t| t.ids.len() >= limits.1.max_length()).count()
        };
        let full = |e: &Example| usize::from(e.query.ids.len() >= limits.0.max_length()) + documents(e);
        (batch.iter().map(full).sum(), batch.iter().map(|e| e.texts().count()).sum())
    }

    /// Which rows each batch of an epoch has: (set, row).
    ///
    /// # Errors
    /// Where no batch can be made.
    pub fn epoch(&self, epoch: usize) -> Result<Vec<Batch>, TrainError> {
        let hashes = |set: usize, row: usize| self.sources[set].rows.hashes(row);
        let made = self.sampler.epoch(epoch, &hashes);
        if made.dropped > 0 {
            tracing::debug!(epoch, dropped = made.dropped, "rows whose texts clash with every batch are left out");
        }
        if made.batches.iter().all(Vec::is_empty) {
            return Err(TrainError::Data("no batch can be made of the training rows".into()));
        }
        Ok(made.batches)
    }

    /// The texts of a batch: for each row one of its positives and some of its negatives, drawn by the seed and the place
    /// (epoch and number of the batch).
    ///
    /// # Errors
    /// Where a row cannot be read, or the tokenizer fails.
    pub fn examples(&self, rows: &[(usize, usize)], place: u64) -> Result<Vec<Example>, TrainError> {
        let mut rng = sampler::draws(self.preparation.seed, place);
        let mut drawn = Vec::with_capacity(rows.len());
        for &(source, row) in rows {
            let row = self.read(source, row)?;
            let texts = match self.preparation.draw {
                Draw::HardNegatives(most) => sampler::hard_negatives(&row, most, &mut rng),
                Draw::Group(size) => sampler::group(&row, size, &mut rng),
            };
            let (positive, negatives) = texts.map_or((None, Vec::new()), |t| (Some(t.positive), t.negatives));
            let damaged =
                self.preparation.noise.as_ref().map(|(noise, mask)| noise.apply(&row.query, mask.as_deref(), &mut rng));
            drawn.push(Drawn { row, source, positive, negatives, damaged });
        }
        self.tokenize(drawn)
    }

    /// The texts of rows in order, always the first positive and the first negatives: for evaluation.
    ///
    /// # Errors
    /// As [`Self::examples`].
    pub fn fixed(&self, rows: std::ops::Range<usize>) -> Result<Vec<Example>, TrainError> {
        let mut drawn = Vec::with_capacity(rows.len());
        let mut rng = sampler::draws(self.preparation.seed, DEV | rows.start as u64);
        for number in rows {
            let (source, row) = self.locate(number);
            let row = self.read(source, row)?;
            let positive = (!row.positives.is_empty()).then_some(0);
            let negatives = match self.preparation.draw {
                Draw::HardNegatives(most) => (0..most.min(row.negatives.len())).collect(),
                Draw::Group(size) => (0..(size - 1).min(row.negatives.len())).collect(),
            };
            let damaged =
                self.preparation.noise.as_ref().map(|(noise, mask)| noise.apply(&row.query, mask.as_deref(), &mut rng));
            drawn.push(Drawn { row, source, positive, negatives, damaged });
        }
        self.tokenize(drawn)
    }

    fn locate(&self, mut number: usize) -> (usize, usize) {
        for (source, set) in self.sources.iter().enumerate() {
            if number < set.rows.len() {
                return (source, number);
            }
            number -= set.rows.len();
        }
        (0, 0)
    }

    fn read(&self, source: usize, row: usize) -> Result<TrainingRow, TrainError> {
        Ok(self.sources[source].rows.row(row)?)
    }

    fn tokenize(&self, drawn: Vec<Drawn>) -> Result<Vec<Example>, TrainError> {
        let mut jobs = Jobs::default();
        for d in &drawn {
            let prompts = &self.sources[d.source].prompts;
            // What TSDAE reads back is the text alone.
            let own = d.row.prompt.as_deref().filter(|_| d.damaged.is_none());
            let query_prompt = own.unwrap_or(&prompts.0);
            let document_prompt = own.filter(|_| self.preparation.both_alike).unwrap_or(&prompts.1);
            match &d.damaged {
                Some(damaged) => {
                    jobs.push(0, query_prompt, damaged);
                    jobs.push(1, document_prompt, &d.row.query);
                }
                None => jobs.push(0, query_prompt, &d.row.query),
            }
            if let Some(i) = d.positive {
                jobs.push(1, document_prompt, &d.row.positives[i]);
            }
            for &i in &d.negatives {
                jobs.push(1, document_prompt, &d.row.negatives[i]);
            }
        }
        let mut texts = self.run(jobs)?.into_iter();
        let mut examples = Vec::with_capacity(drawn.len());
        for d in &drawn {
            let mut next = || texts.next().ok_or_else(|| TrainError::Data("a text was lost in tokenization".into()));
            let query = next()?;
            let positive = if d.damaged.is_some() || d.positive.is_some() { Some(next()?) } else { None };
            let negatives = d.negatives.iter().map(|_| next()).collect::<Result<_, _>>()?;
            let row = &d.row;
            let teacher = d
                .positive
                .and_then(|i| row.positive_scores.get(i))
                .into_iter()
                .chain(d.negatives.iter().filter_map(|&i| row.negative_scores.get(i)))
                .copied()
                .collect();
            examples.push(Example {
                query,
                positive,
                negatives,
                known: row.positives.iter().map(|text| text_hash(text)).collect(),
                teacher,
                score: row.score,
                label: row.label.as_ref().and_then(|label| self.preparation.classes.get(label)).map(|class| class.0),
                alone: row.kind.as_deref().is_some_and(|kind| kind.starts_with("symmetric")),
            });
        }
        Ok(examples)
    }

    fn run(&self, jobs: Jobs<'_>) -> Result<Vec<Text>, TrainError> {
        let mut out: Vec<Option<Text>> = vec![None; jobs.texts];
        let (tokenizer, documents) = &self.preparation.tokenizers;
        for ((side, prompt), places) in jobs.by_prompt {
            let tokenizer = if side == 0 { tokenizer } else { documents };
            let texts: Vec<&str> = places.iter().map(|(_, text)| *text).collect();
            let ids = tokenizer.encode(&texts, prompt)?;
            let guide = match &self.preparation.guide {
                Some((guide, prompts)) => {
                    guide.encode(&texts, &prompts[side])?.into_iter().map(|ids| Some(Arc::new(ids))).collect()
                }
                None => vec![None; texts.len()],
            };
            let prompt_tokens = self.prompt_tokens(tokenizer, prompt)?;
            for (((place, text), ids), guide) in places.iter().zip(ids).zip(guide) {
                out[*place] = Some(Text { ids: Arc::new(ids), identity: text_hash(text), prompt_tokens, guide });
            }
        }
        Ok(out.into_iter().flatten().collect())
    }

    fn prompt_tokens(&self, tokenizer: &TextTokenizer, prompt: &str) -> Result<usize, TrainError> {
        if self.preparation.include_prompt || prompt.is_empty() {
            return Ok(0);
        }
        let mut known = self.prompt_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = known.get(prompt) {
            return Ok(*tokens);
        }
        let tokens = tokenizer.prompt_tokens(prompt)?;
        known.insert(prompt.to_string(), tokens);
        Ok(tokens)
    }
}

/// Texts to tokenize, by side and prompt, each with its place in the result.
#[derive(Default)]
struct Jobs<'a> {
    texts: usize,
    by_prompt: BTreeMap<(usize, &'a str), Vec<(usize, &'a str)>>,
}

impl<'a> Jobs<'a> {
    fn push(&mut self, side: usize, prompt: &'a str, text: &'a str) {
        self.by_prompt.entry((side, prompt)).or_default().push((self.texts, text));
        self.texts += 1;
    }
}
