//! From the embeddings of a batch to its loss: which rows of the matrix a loss looks at, and what it keeps between batches.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var, bail};

use super::Direction;
use super::batch::{Example, Layout};
use super::masks::masks;
use super::memory::Memory;
use crate::loss::adaptive_margin::{self, AdaptiveMargin};
use crate::loss::angle::AnglE;
use crate::loss::arcface::{self, ArcFace};
use crate::loss::cosent::CoSent;
use crate::loss::distance::Distance;
use crate::loss::distillation::{Groups, KlDivergence, Similarity, margin_mse};
use crate::loss::gist::{self, Gist};
use crate::loss::info_nce::{InfoNce, Masks};
use crate::loss::margin::Margin;
use crate::loss::matryoshka::Matryoshka;
use crate::loss::regression::cosine_regression;
use crate::loss::simcse::SimCse;
use crate::loss::temperature::{LARGEST_SCALE, Temperature};
use crate::loss::triplet::Triplet;
use crate::loss::triplet_mining::TripletMining;

/// A loss and its settings.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// InfoNCE with in-batch and hard negatives.
    InfoNce {
        /// Whether the temperature is learned, from the one given.
        learn_temperature: bool,
        /// Share of the target's probability that is spread over the negatives.
        label_smoothing: f64,
        /// Negatives this near to the positive are left out.
        false_negatives: Option<Margin>,
    },
    /// InfoNCE whose false negatives a guide model finds.
    Gist {
        /// Negatives that the guide places this near to the positive are left out.
        margin: Margin,
    },
    /// Two dropout passes of the same text.
    SimCse,
    /// KL divergence from a teacher's scores.
    Distillation {
        /// Temperature of the teacher's scores.
        teacher_temperature: f64,
    },
    /// Squared error of the differences of scores to a teacher's.
    MarginMse,
    /// Triplets of query, positive and hard negatives.
    Triplet {
        /// Least difference of the distances.
        margin: f64,
        /// Distance.
        distance: Distance,
    },
    /// Triplets found in the batch by label.
    BatchTriplets(TripletMining),
    /// CoSENT over scored pairs.
    CoSent {
        /// Factor of the cosines.
        scale: f64,
    },
    /// AnglE over scored pairs.
    Angle {
        /// Factor of the angles.
        scale: f64,
    },
    /// Squared error of the cosine to the score.
    Regression,
    /// ArcFace over labelled texts.
    ArcFace {
        /// Factor of the cosines.
        scale: f64,
    },
}

/// What a loss needs of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// A query and a positive.
    Pairs,
    /// A query, a positive, and at least one negative.
    Triplets,
    /// As pairs, with a teacher's scores.
    Teacher,
    /// Two sentences and their similarity.
    Scores,
    /// A text and its class.
    Labels,
    /// A text.
    Texts,
}

impl Kind {
    /// What it needs of a row.
    pub fn needs(&self) -> Needs {
        match self {
            Self::InfoNce { .. } | Self::Gist { .. } => Needs::Pairs,
            Self::SimCse => Needs::Texts,
            Self::Distillation { .. } | Self::MarginMse => Needs::Teacher,
            Self::Triplet { .. } => Needs::Triplets,
            Self::BatchTriplets(_) | Self::ArcFace { .. } => Needs::Labels,
            Self::CoSent { .. } | Self::Angle { .. } | Self::Regression => Needs::Scores,
        }
    }

    /// Whether other rows of the batch are negatives of a row.
    pub fn in_batch_negatives(&self) -> bool {
        matches!(self, Self::InfoNce { .. } | Self::Gist { .. } | Self::SimCse)
    }
}

/// A loss with what goes around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Criterion {
    /// The loss.
    pub kind: Kind,
    /// One direction or both, for losses with in-batch negatives.
    pub direction: Direction,
    /// Temperature of the losses that have one; the first if it is learned.
    pub temperature: f64,
    /// Dimensions and weights of Matryoshka training.
    pub matryoshka: Option<Matryoshka>,
    /// Size of the cross-batch memory in pairs, and batches before it is used.
    pub memory: Option<(usize, usize)>,
    /// How ArcFace's margins change.
    pub margins: Option<adaptive_margin::Settings>,
}

/// What a loss keeps from batch to batch.
pub struct State {
    /// Tensors that the loss learns, by name (`loss.logit_scale`, `loss.class_weights`).
    pub vars: BTreeMap<String, Var>,
    /// The cross-batch memory.
    pub memory: Option<Memory>,
    /// ArcFace's margins.
    pub margins: Option<AdaptiveMargin>,
}

/// The learned log(1/T).
const LOGIT_SCALE: &str = "loss.logit_scale";
/// ArcFace's class weights.
const CLASS_WEIGHTS: &str = "loss.class_weights";

impl State {
    /// The state before the first batch, for embeddings of `dim` values and classes of these sizes.
    ///
    /// # Errors
    /// Where a setting is out of its range, or the device has no room.
    pub fn new(criterion: &Criterion, dim: usize, class_sizes: &[u64], seed: u64, device: &Device) -> Result<Self> {
        let classes = class_sizes.len();
        let mut vars = BTreeMap::new();
        if let Kind::InfoNce { learn_temperature: true, .. } = criterion.kind {
            let start = Tensor::new((1.0 / criterion.temperature).ln() as f32, device)?;
            vars.insert(LOGIT_SCALE.to_string(), Var::from_tensor(&start)?);
        }
        if let Kind::ArcFace { .. } = criterion.kind {
            let weights = crate::nn::initial::xavier_uniform(classes, dim, seed);
            let weights = Tensor::from_vec(weights, (classes, dim), device)?;
            vars.insert(CLASS_WEIGHTS.to_string(), Var::from_tensor(&weights)?);
        }
        let memory = criterion.memory.map(|(size, warmup)| Memory::new(size, warmup));
        let margins = criterion.margins.as_ref().map(|m| AdaptiveMargin::new(m.clone(), class_sizes)).transpose()?;
        Ok(Self { vars, memory, margins })
    }

    fn var(&self, name: &str) -> Result<&Tensor> {
        match self.vars.get(name) {
            Some(var) => Ok(var.as_tensor()),
            None => bail!("the loss has no `{name}`"),
        }
    }
}

impl Criterion {
    /// The texts of a batch in the order of their embeddings.
    pub fn layout<'a>(&self, batch: &'a [Example]) -> Layout<'a> {
        Layout::new(batch, self.kind == Kind::SimCse)
    }

    /// The loss of a batch, a scalar; `embeddings` `[texts, dim]` in the layout's order, `guide` likewise by the guide.
    ///
    /// # Errors
    /// Where a tensor operation fails, or rows lack what the loss needs.
    pub fn loss(
        &self,
        embeddings: &Tensor,
        layout: &Layout<'_>,
        batch: &[Example],
        state: &mut State,
        guide: Option<&Tensor>,
    ) -> Result<Tensor> {
        let n = layout.queries;
        let rest = layout.texts.len() - n;
        let queries = embeddings.narrow(0, 0, n)?;
        if rest == 0 {
            return self.over(&[&queries], &|parts| self.of_texts(&parts[0], batch, state));
        }
        let documents = embeddings.narrow(0, n, rest)?;
        let memory = match &mut state.memory {
            Some(memory) if memory.is_ready() => Some(memory.tensors(embeddings.device())?),
            _ => None,
        };
        let mut parts = vec![&queries, &documents];
        if let Some((queries, documents)) = &memory {
            parts.extend([queries, documents]);
        }
        let remembered = if memory.is_some() { state.memory.as_ref() } else { None };
        let masks = if self.kind.in_batch_negatives() {
            masks(batch, &layout.texts[n..], remembered)
        } else {
            Masks::default()
        };
        self.over(&parts, &|parts| self.of_pairs(parts, layout, batch, state, &masks, guide))
    }

    /// Remembers a batch whose loss was taken: its pairs in the memory, its cosines for ArcFace's margins.
    ///
    /// # Errors
    /// Where the embeddings cannot be read.
    pub fn remember(
        &self,
        embeddings: &Tensor,
        layout: &Layout<'_>,
        batch: &[Example],
        state: &mut State,
    ) -> Result<()> {
        if let (Kind::ArcFace { .. }, Some(labels)) = (&self.kind, labels(batch)) {
            let cosines = arcface::own_cosines(embeddings, state.var(CLASS_WEIGHTS)?, &labels)?;
            if let Some(margins) = &mut state.margins {
                margins.observe(&labels, &cosines)?;
            }
        }
        let Some(memory) = &mut state.memory else { return Ok(()) };
        let n = layout.queries;
        let (texts, width) = embeddings.dims2()?;
        if layout.positives != n || texts < 2 * n {
            bail!("a cross-batch memory needs a positive for every query");
        }
        let values = embeddings.narrow(0, 0, 2 * n)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let (queries, documents) = values.split_at(n * width);
        memory.remember(batch, queries, documents, width);
        Ok(())
    }

    /// Brings what the loss learns back into its range after an optimizer step: 1/T to 100 at the most, as CLIP does.
    ///
    /// # Errors
    /// Where a variable cannot be read.
    pub fn after_step(&self, state: &State) -> Result<()> {
        let Some(scale) = state.vars.get(LOGIT_SCALE) else { return Ok(()) };
        let most = LARGEST_SCALE.ln() as f32;
        if scale.as_tensor().to_scalar::<f32>()? > most {
            scale.set(&Tensor::new(most, scale.device())?)?;
        }
        Ok(())
    }

    fn over(&self, parts: &[&Tensor], loss: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> Result<Tensor> {
        match &self.matryoshka {
            Some(matryoshka) => matryoshka.loss(parts, loss),
            None => loss(&parts.iter().map(|part| (*part).clone()).collect::<Vec<_>>()),
        }
    }

    fn of_texts(&self, texts: &Tensor, batch: &[Example], state: &State) -> Result<Tensor> {
        let Some(labels) = labels(batch) else { bail!("the loss needs a label for every text") };
        match &self.kind {
            Kind::BatchTriplets(mining) => mining.loss(texts, &labels),
            Kind::ArcFace { scale } => {
                let weights = state.var(CLASS_WEIGHTS)?;
                let margins = match &state.margins {
                    Some(margins) => margins.margins(),
                    None => bail!("ArcFace has no margins"),
                };
                // A Matryoshka part sees as many values of the class weights as of the embeddings.
                let weights = weights.narrow(1, 0, texts.dims2()?.1)?;
                ArcFace { scale: *scale }.loss(texts, &weights, &labels, &margins)
            }
            other => bail!("{other:?} needs more than texts with labels"),
        }
    }

    fn of_pairs(
        &self,
        parts: &[Tensor],
        layout: &Layout<'_>,
        batch: &[Example],
        state: &State,
        masks: &Masks,
        guide: Option<&Tensor>,
    ) -> Result<Tensor> {
        let [queries, documents, remembered @ ..] = parts else { bail!("a loss over pairs needs pairs") };
        let n = layout.queries;
        let both_directions = self.direction == Direction::Symmetric;
        match &self.kind {
            Kind::InfoNce { learn_temperature, label_smoothing, false_negatives } => {
                let temperature = if *learn_temperature {
                    Temperature::Learned(state.var(LOGIT_SCALE)?.clone())
                } else {
                    Temperature::Fixed(self.temperature)
                };
                let loss = InfoNce {
                    temperature,
                    label_smoothing: *label_smoothing,
                    both_directions,
                    false_negatives: *false_negatives,
                };
                let masks = &match both_directions {
                    true => masks.clone(),
                    false => Masks { queries: Arc::default(), ..masks.clone() },
                };
                match remembered {
                    [more_queries, more_documents] => {
                        let documents = Tensor::cat(&[documents, more_documents], 0)?;
                        loss.loss(queries, &documents, both_directions.then_some(more_queries), masks)
                    }
                    _ => loss.loss(queries, documents, None, masks),
                }
            }
            Kind::SimCse => {
                let identities: Vec<u64> = batch.iter().map(|e| e.query.identity).collect();
                SimCse { temperature: Temperature::Fixed(self.temperature) }.loss(queries, documents, &identities)
            }
            Kind::Gist { margin } => {
                let Some(guide) = guide else { bail!("GIST needs a guide's embeddings") };
                let guides = (guide.narrow(0, 0, n)?, guide.narrow(0, n, documents.dims2()?.0)?);
                let temperature = self.temperature;
                let loss = Gist { temperature, margin: *margin, contrast_anchors: true, contrast_positives: true };
                let student = gist::Side { queries, documents };
                loss.loss(student, gist::Side { queries: &guides.0, documents: &guides.1 }, masks)
            }
            Kind::Distillation { .. } | Kind::MarginMse => {
                let mut groups: Vec<Vec<usize>> = (0..n).map(|row| vec![row]).collect();
                for (i, &row) in layout.owners.iter().enumerate() {
                    groups[row].push(n + i);
                }
                let teacher: Vec<Vec<f32>> = batch.iter().map(|e| e.teacher.clone()).collect();
                let temperature = self.temperature;
                let groups = Groups { documents: &groups, teacher: &teacher };
                match self.kind {
                    Kind::Distillation { teacher_temperature } => {
                        let similarity = Similarity::Cosine;
                        KlDivergence { similarity, temperature, teacher_temperature }.loss(queries, documents, groups)
                    }
                    // A teacher's margins have no bound, as cosines' have (Hofstätter et al. 2020).
                    _ => margin_mse(queries, documents, groups, Similarity::Dot),
                }
            }
            Kind::Triplet { margin, distance } => {
                let positives = documents.narrow(0, 0, n)?;
                let negatives = documents.narrow(0, n, layout.owners.len())?;
                Triplet { margin: *margin, distance: *distance }.loss(queries, &positives, &negatives, &layout.owners)
            }
            Kind::CoSent { .. } | Kind::Angle { .. } | Kind::Regression => {
                let scores: Option<Vec<f32>> = batch.iter().map(|e| e.score).collect();
                let Some(scores) = scores else { bail!("the loss needs a score for every pair") };
                match self.kind {
                    Kind::CoSent { scale } => CoSent { scale }.loss(queries, documents, &scores),
                    Kind::Angle { scale } => AnglE { scale }.loss(queries, documents, &scores),
                    _ => cosine_regression(queries, documents, &scores),
                }
            }
            Kind::BatchTriplets(_) | Kind::ArcFace { .. } => {
                bail!("{:?} takes texts with labels, not pairs", self.kind)
            }
        }
    }
}

/// The rows' labels, where all have one.
fn labels(batch: &[Example]) -> Option<Vec<u32>> {
    batch.iter().map(|e| e.label).collect()
}
