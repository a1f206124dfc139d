//! The training loop.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::TrainError;
use super::batches::{self, Batch, Batches, Preparation};
use super::best::Best;
use super::checkpoint::{self, Final, checkpoint_name};
use super::dev::Evaluation;
use super::guard::{self, Effect, Frozen, Warning};
use super::log::{BestMetric, EvalRecord, History, RunFacts, RunLog, RunSummary, StepRecord};
use super::optimizer::Optimizer;
use super::run::{
    AdapterSettings, DevPoint, Objective, Output, Run, adapter_targets, checkpoint_steps, linear_layers, steps_of,
};
use super::sampler::{Sampler, SetSize};
use super::schedule::Schedule;
use crate::adapter::{Adapter, glob, peft};
use crate::model::decoder::Decoder;
use crate::model::prompts::Side;
use crate::model::{BuildOptions, Embedder, Mode};
use crate::nn::checkpoint::GradientSink;
use crate::nn::kernel::precision;
use crate::objective::backward::{Passes, Step};
use crate::objective::batch::pack;
use crate::objective::criterion::Needs;
use crate::objective::{Criterion, Direction, Example, Kind, State, tsdae};

/// Time between states where steps are long.
const STATE_TIME: Duration = Duration::from_secs(600);
/// Batches that are made ahead of the one trained on.
const AHEAD: usize = 2;

/// What is trained for, ready to run.
pub enum Goal {
    /// A loss over embeddings.
    Embeddings(Criterion),
    /// A decoder that reads embeddings.
    Tsdae(Box<Decoder>),
}

/// The batches of one optimizer step.
type Parts = Vec<Vec<Example>>;

/// A run under way.
pub struct Trainer<'a> {
    run: &'a Run<'a>,
    embedder: Embedder,
    evaluator: Embedder,
    guide: Option<Embedder>,
    goal: Goal,
    needs: Needs,
    state: State,
    optimizer: Optimizer,
    schedule: Schedule,
    preparation: Arc<Preparation>,
    sink: GradientSink,
    steps: usize,
    /// Optimizer steps of an epoch.
    per_epoch: usize,
    log: Option<RunLog>,
    best: Best,
    stopped: bool,
    out: Output,
    last_state: Instant,
    /// What must not move.
    frozen: Frozen,
    /// What must.
    effect: Effect,
}

/// Builds the model to train: an adapter on frozen weights, or the weights themselves.
fn build(run: &Run<'_>) -> Result<Embedder, TrainError> {
    let settings = run.settings;
    let Some(AdapterSettings { spec, targets, quantization }) = &settings.adapter else {
        let trainable = |name: &str| {
            !name.starts_with("pooler") && !settings.freeze.iter().any(|p| glob(p.as_bytes(), name.as_bytes()))
        };
        let options = BuildOptions {
            device: run.device.clone(),
            trainable: &trainable,
            dropout: settings.dropout,
            ..Default::default()
        };
        return Ok(Embedder::build(run.base, &options)?);
    };
    let adapter = match &run.start {
        Some(adapter) => adapter.clone(),
        None => {
            let targets = adapter_targets(run.base, targets);
            if targets.is_empty() {
                let kind = run.base.config["model_type"].as_str().unwrap_or_default();
                return Err(TrainError::Data(format!(
                    "{}: a model of type {kind} has no linear layers for an adapter: use adapter.kind full",
                    run.base.path.display()
                )));
            }
            Adapter::init(spec.clone(), &targets, &linear_layers(run.base), settings.seed).map_err(TrainError::Data)?
        }
    };
    let options = BuildOptions {
        device: run.device.clone(),
        adapter: Some(&adapter),
        adapter_trainable: true,
        dropout: settings.dropout,
        quantize: quantization.as_ref(),
        ..Default::default()
    };
    Ok(Embedder::build(run.base, &options)?)
}

impl<'a> Trainer<'a> {
    /// Sets a run up, and takes an interrupted one up.
    ///
    /// # Errors
    /// Where the settings do not fit model or data.
    pub fn new(run: &'a Run<'a>) -> Result<Self, TrainError> {
        let settings = run.settings;
        if run.train.iter().all(|source| source.rows.is_empty()) {
            return Err(TrainError::Data("there are no training rows".into()));
        }
        let embedder = build(run)?;
        let evaluator = embedder.detached()?;
        let needs = match &settings.objective {
            Objective::Embeddings(criterion) => criterion.kind.needs(),
            Objective::Tsdae(_) => Needs::Texts,
        };
        for source in run.train.iter().chain(run.dev) {
            batches::check_form(source, needs, settings.draw, &settings.loss_name)?;
        }
        check_combination(run)?;
        let classes = if needs == Needs::Labels { batches::classes(run.train)? } else { BTreeMap::new() };
        if needs == Needs::Labels && classes.len() < 2 {
            return Err(TrainError::Data(format!("{} needs at least two labels", settings.loss_name)));
        }
        if needs == Needs::Labels && !run.dev.is_empty() {
            let known = batches::classes(run.dev)?.keys().any(|label| classes.contains_key(label));
            if !known {
                return Err(TrainError::Data("none of the dev rows has a label that the training rows have".into()));
            }
        }
        let tokenizer = run.base.tokenizer();
        let guide = run
            .guide
            .map(|files| Embedder::build(files, &BuildOptions { device: run.device.clone(), ..Default::default() }));
        let guide = guide.transpose()?;
        let (goal, state, noise) = match &settings.objective {
            Objective::Embeddings(criterion) => {
                let dim = run.base.embedding_size();
                if let Some(m) = &criterion.matryoshka
                    && let Some(wide) = m.dims.iter().find(|d| **d > dim)
                {
                    return Err(TrainError::Data(format!(
                        "loss.matryoshka: {wide} is more than the model's {dim} dimensions"
                    )));
                }
                let mut sizes = vec![0; classes.len()];
                classes.values().for_each(|(class, count)| sizes[*class as usize] = *count as u64);
                let state = State::new(criterion, dim, &sizes, settings.seed, run.device)?;
                (Goal::Embeddings(criterion.clone()), state, None)
            }
            Objective::Tsdae(noise) => {
                let decoder = Decoder::new(&embedder, Some(&run.base.weights), settings.seed)?;
                let state = State { vars: decoder.vars().clone(), memory: None, margins: None };
                (Goal::Tsdae(Box::new(decoder)), state, Some((*noise, tokenizer.mask_token())))
            }
        };
        let preparation = Arc::new(Preparation {
            tokenizers: (
                tokenizer.with_max_length(settings.max_length.0)?,
                tokenizer.with_max_length(settings.max_length.1)?,
            ),
            guide: run.guide.map(|files| {
                let own = |side| files.layout.prompts.of_side(side).to_string();
                (files.tokenizer().clone(), [own(Side::Query), own(Side::Document)])
            }),
            both_alike: match &settings.objective {
                Objective::Embeddings(criterion) => criterion.direction == Direction::Symmetric,
                Objective::Tsdae(_) => true,
            },
            include_prompt: run.base.layout.include_prompt,
            needs,
            draw: settings.draw,
            noise,
            classes,
            seed: settings.seed,
        });
        let mut vars = embedder.vars().clone();
        vars.append(&mut state.vars.clone());
        let names: Vec<&str> = vars.keys().map(String::as_str).collect();
        if let Some(pattern) = settings.groups.unused(&names).first() {
            return Err(TrainError::Data(format!(
                "train.groups: `{pattern}` names no tensor that is trained; some are {}",
                names.iter().take(3).copied().collect::<Vec<_>>().join(", ")
            )));
        }
        let optimizer = Optimizer::new(settings.optimizer.clone(), &vars, &settings.groups)?;
        let batches = match run.fixed_batches {
            Some(batches) => batches.len(),
            None => sampler(run)?.batches_per_epoch(),
        };
        let steps = steps_of(batches, settings.accumulate, settings.epochs, settings.max_steps);
        // Of the model before any training, that of a run that is taken up, too.
        let probe: Vec<(usize, usize)> = (0..run.train[0].rows.len().min(8)).map(|row| (0, row)).collect();
        let probe = Batches::new(run.train, sampler(run)?, &preparation).examples(&probe, u64::MAX)?;
        let texts: Vec<_> = probe.iter().map(|e| &e.query).collect();
        let mut trainer = Self {
            frozen: Frozen::of(&embedder)?,
            effect: Effect::of(&evaluator, pack(&texts))?,
            goal,
            needs,
            guide,
            optimizer,
            schedule: Schedule::new(settings.schedule, settings.warmup, steps),
            preparation,
            sink: GradientSink::new(),
            steps,
            per_epoch: batches.div_ceil(settings.accumulate).max(1),
            log: None,
            best: Best::default(),
            stopped: false,
            out: Output {
                steps: 0,
                tokens: 0,
                seconds: 0.0,
                losses: Vec::with_capacity(steps),
                norms: Vec::with_capacity(steps),
                dev: Vec::new(),
                checkpoints: Vec::new(),
                result: steps,
                best: None,
                resumed: None,
                truncated: (0, 0),
                weight_bytes: embedder.weight_bytes(),
                warnings: Vec::new(),
                trainable: vars.values().map(|v| v.as_tensor().elem_count() as u64).sum(),
                held: false,
            },
            last_state: Instant::now(),
            run,
            embedder,
            evaluator,
            state,
        };
        trainer.take_up()?;
        Ok(trainer)
    }

    /// Takes up the newest state in the output's folder, where there is one.
    fn take_up(&mut self) -> Result<(), TrainError> {
        let Some(output) = self.run.output else { return Ok(()) };
        let mut history = None;
        if let Some((state, tensors)) = checkpoint::latest(output, self.run.fingerprint)? {
            let fault = |message: String| TrainError::Resume {
                path: output.join(checkpoint_name(state.step)),
                message: format!("the saved state {message}: --restart begins anew"),
            };
            self.optimizer.restore(&tensors, state.step).map_err(fault)?;
            if let Some(memory) = &mut self.state.memory {
                memory.restore(&tensors).map_err(|e| fault(e.to_string()))?;
            }
            if let (Some(margins), Some(saved)) = (&mut self.state.margins, state.margins) {
                margins.restore(saved).map_err(|e| fault(e.to_string()))?;
            }
            (self.best, self.stopped) = (state.best, state.stopped);
            (self.out.tokens, self.out.seconds) = (state.tokens, state.seconds);
            self.out.truncated = state.truncated;
            self.out.resumed = Some(state.step);
            self.out.losses = state.history.steps.iter().map(|s| s.loss).collect();
            self.out.norms = state.history.steps.iter().map(|s| s.grad_norm).collect();
            self.out.dev = state.history.evals.iter().map(point).collect();
            tracing::info!("taken up after step {} of {}", state.step, self.steps);
            history = Some(state.history);
        }
        self.log = Some(RunLog::open(output, self.facts(), history)?);
        Ok(())
    }

    fn facts(&self) -> RunFacts {
        let settings = self.run.settings;
        let count = |tensors: &mut dyn Iterator<Item = &Tensor>| tensors.map(Tensor::elem_count).sum::<usize>() as u64;
        let trainable = count(&mut self.embedder.vars().values().map(|v| v.as_tensor()));
        RunFacts {
            base: self.run.base_name.to_string(),
            method: match &settings.adapter {
                None => "full".into(),
                Some(AdapterSettings { quantization: None, .. }) => "lora".into(),
                Some(_) => "qlora".into(),
            },
            quantization_bits: settings.adapter.as_ref().and_then(|a| a.quantization.as_ref()).map(|q| q.bits()),
            adapter: settings.adapter.as_ref().map(|a| {
                serde_json::json!({"r": a.spec.rank, "lora_alpha": a.spec.alpha, "lora_dropout": a.spec.dropout,
                    "target_modules": adapter_targets(self.run.base, &a.targets)})
            }),
            total_parameters: (self.embedder.weight_bytes().dense / 4) as u64,
            trainable_parameters: trainable,
            settings: self.run.facts.clone(),
            max_steps: self.steps as u64,
            epochs: self.steps.div_ceil(self.per_epoch) as u64,
            batch: settings.batch as u64,
            eval_every: settings.eval_every.map(|n| n as u64),
            save_every: settings.save_every.map(|n| n as u64),
            best: settings
                .best
                .as_ref()
                .map(|rule| BestMetric { name: rule.metric.clone(), greater_is_better: rule.metric != "loss" }),
        }
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// As [`super::run::run`].
    pub fn run(mut self) -> Result<(Output, Embedder), TrainError> {
        let run = self.run;
        self.out.warnings = guard::on_data(run.train);
        let direction = match &run.settings.objective {
            Objective::Embeddings(criterion) => criterion.direction,
            Objective::Tsdae(_) => Direction::Symmetric,
        };
        if matches!(run.settings.objective, Objective::Embeddings(_)) {
            self.out.warnings.extend(guard::on_prompts(run.base, run.train, direction));
        }
        for warning in &self.out.warnings {
            tracing::warn!("{}", warning.0);
        }
        // Shared, so that batches can be made while the trainer is at work.
        let preparation = self.preparation.clone();
        let batches = Batches::new(run.train, sampler(run)?, &preparation);
        let dev = Batches::new(run.dev, sampler(run)?, &preparation);
        let fresh = self.out.resumed.is_none();
        if fresh && run.settings.eval_every.is_some() {
            self.evaluate(&dev, 0)?;
        }
        let start = self.optimizer.steps();
        self.out.held = !fresh && !self.stopped && start < self.steps && self.is_held(start)?;
        if start < self.steps && !self.stopped && !self.out.held {
            std::thread::scope(|scope| {
                let (send, receive) = sync_channel(AHEAD);
                let made =
                    Made { start, per_epoch: self.per_epoch, steps: self.steps, accumulate: run.settings.accumulate };
                let (fixed, batches) = (run.fixed_batches, &batches);
                // The sender is the thread's own, so that the loop ends when it does.
                let maker = scope.spawn(move || {
                    if let Err(error) = made.run(fixed, batches, &send) {
                        let _ = send.send(Err(error));
                    }
                });
                let result = self.steps(&receive, batches, &dev);
                drop(receive);
                let _ = maker.join();
                result
            })?;
        }
        let cut = run.stop_after.is_some_and(|after| self.optimizer.steps() >= after);
        if self.out.held || (cut && self.optimizer.steps() < self.steps) {
            self.out.steps = self.optimizer.steps();
            return Ok((self.out, self.embedder));
        }
        self.finish()
    }

    fn steps(
        &mut self,
        receive: &Receiver<Result<Parts, TrainError>>,
        batches: &Batches<'_>,
        dev: &Batches<'_>,
    ) -> Result<(), TrainError> {
        let settings = self.run.settings;
        let saves = checkpoint_steps(settings.save_every, self.steps);
        while let Ok(parts) = receive.recv() {
            let parts = parts?;
            let loss = self.step(&parts)?;
            let step = self.optimizer.steps();
            for batch in &parts {
                let (full, all) = batches.truncated(batch);
                self.out.truncated = (self.out.truncated.0 + full, self.out.truncated.1 + all);
            }
            (self.run.progress)(step, self.steps, loss);
            let last = step == self.steps;
            let due = last || settings.eval_every.is_some_and(|every| step.is_multiple_of(every.max(1)));
            let improved = if due { self.evaluate(dev, step)? } else { false };
            let over = settings.best.as_ref().is_some_and(|rule| self.best.is_over(rule));
            self.stopped = over;
            if saves.contains(&step) || improved || over {
                self.save(step)?;
            } else if self.run.output.is_some() && self.state_due(step, due) {
                self.save_state_between()?;
            }
            self.out.held = due && !over && !last && self.is_held(step)?;
            if over || last || self.out.held || self.run.stop_after.is_some_and(|after| step >= after) {
                break;
            }
        }
        Ok(())
    }

    /// Whether the run is to end here for now, told by the evaluation of this step.
    fn is_held(&self, step: usize) -> Result<bool, TrainError> {
        match (self.run.hold, self.out.dev.last().filter(|point| point.step == step)) {
            (Some(hold), Some(point)) => hold(step, &point.metrics()).map_err(TrainError::Hold),
            _ => Ok(false),
        }
    }

    fn state_due(&self, step: usize, evaluated: bool) -> bool {
        let every = self.run.settings.state_every;
        evaluated || every.is_some_and(|n| step.is_multiple_of(n.max(1))) || self.last_state.elapsed() > STATE_TIME
    }

    /// One optimizer step; gives its loss.
    fn step(&mut self, parts: &Parts) -> Result<f64, TrainError> {
        let start = Instant::now();
        let settings = self.run.settings;
        let step = self.optimizer.steps();
        let (epoch, group) = (step / self.per_epoch, step % self.per_epoch);
        let precision = precision::in_parts(settings.precision.parts());
        let mut loss_sum = 0f64;
        for (part, examples) in parts.iter().enumerate() {
            let place = ((epoch as u64) << 32) | (group * settings.accumulate + part) as u64;
            let mut mode =
                Mode::training(settings.seed ^ place.wrapping_mul(0x2545_f491_4f6c_dd1d)).with_gradients(&self.sink);
            if settings.checkpointing {
                mode = mode.with_checkpointing(&self.sink);
            }
            let value = self.backward(examples, mode, parts.len())?;
            if !value.is_finite() {
                return Err(TrainError::NonFiniteLoss { step: step + 1, loss: value });
            }
            loss_sum += value;
            self.out.tokens += examples.iter().map(Example::tokens).sum::<usize>();
        }
        drop(precision);
        let lr = settings.lr * self.schedule.factor(step);
        let norm = self.optimizer.step(lr)?;
        if let Goal::Embeddings(criterion) = &self.goal {
            criterion.after_step(&self.state)?;
        }
        let loss = loss_sum / parts.len() as f64;
        self.out.seconds += start.elapsed().as_secs_f64();
        self.out.norms.push(norm);
        self.out.losses.push(loss);
        if let Some(log) = &mut self.log {
            log.step(StepRecord {
                step: step as u64 + 1,
                epoch: (step + 1) as f64 / self.per_epoch as f64,
                loss,
                learning_rate: lr,
                grad_norm: norm,
                tokens: self.out.tokens as u64,
                seconds: self.out.seconds,
                time: None,
                extra: BTreeMap::new(),
            })?;
        }
        Ok(loss)
    }

    /// The loss of a batch; its gradients go to the optimizer.
    fn backward(&mut self, examples: &[Example], mode: Mode, share: usize) -> Result<f64, TrainError> {
        let (optimizer, sink) = (&mut self.optimizer, &self.sink);
        let mut take = |gradients| {
            optimizer.add(gradients)?;
            optimizer.add_from(&mut |var| sink.take(var.id()))
        };
        match &self.goal {
            Goal::Embeddings(criterion) => {
                let passes = self.run.settings.grad_cache.map_or(Passes::Whole, Passes::Cached);
                let step =
                    Step { embedder: &self.embedder, criterion, guide: self.guide.as_ref(), passes, mode, share };
                Ok(step.run(examples, &mut self.state, &mut take)?)
            }
            Goal::Tsdae(decoder) => {
                let loss = tsdae::loss(&self.embedder, decoder, examples, &mode)?;
                let value = f64::from(loss.to_scalar::<f32>()?);
                if value.is_finite() {
                    take((loss / share as f64)?.backward()?)?;
                }
                Ok(value)
            }
        }
    }

    /// Evaluates, logs, and says whether it is the best so far.
    fn evaluate(&mut self, dev: &Batches<'_>, step: usize) -> Result<bool, TrainError> {
        if self.run.dev.is_empty() && self.run.tasks.is_none() {
            return Ok(false);
        }
        self.optimizer.swap_averages()?;
        let mut metrics = BTreeMap::new();
        let mut evaluated = DevPoint { step, loss: None, mrr: None, tasks: BTreeMap::new() };
        if !self.run.dev.is_empty() {
            let evaluation = Evaluation {
                embedder: &self.evaluator,
                guide: self.guide.as_ref(),
                goal: &self.goal,
                needs: self.needs,
                batch: self.run.settings.batch,
            };
            let result = evaluation.run(dev, &mut self.state)?;
            metrics.insert("loss".to_string(), result.loss);
            evaluated.loss = Some(result.loss);
            if let Some(mrr) = result.mrr {
                metrics.insert("mrr".to_string(), mrr);
                evaluated.mrr = Some(mrr);
            }
        }
        if let Some(tasks) = self.run.tasks {
            evaluated.tasks = tasks(&self.evaluator).map_err(TrainError::Tasks)?;
            metrics.extend(evaluated.tasks.clone());
        }
        self.optimizer.swap_averages()?;
        let improved = match &self.run.settings.best {
            None => false,
            Some(rule) => match metrics.get(&rule.metric) {
                // The untrained model is told of, but is no checkpoint.
                Some(_) if step == 0 => false,
                Some(value) => self.best.see(step, *value, rule),
                None => {
                    let known: Vec<&str> = metrics.keys().map(String::as_str).collect();
                    return Err(TrainError::Data(format!(
                        "train.metric = {}: is none of what an evaluation gives ({})",
                        rule.metric,
                        known.join(", ")
                    )));
                }
            },
        };
        if let Some(log) = &mut self.log {
            let epoch = step as f64 / self.per_epoch as f64;
            log.eval(EvalRecord { step: step as u64, epoch, time: None, metrics })?;
        }
        self.out.dev.push(evaluated);
        Ok(improved)
    }

    /// Saves a checkpoint and the state beside it, then lets go of what is superfluous.
    fn save(&mut self, step: usize) -> Result<(), TrainError> {
        let Some(output) = self.run.output else { return Ok(()) };
        let folder = output.join(checkpoint_name(step));
        self.optimizer.swap_averages()?;
        let saved = self.save_model(&folder, step);
        self.optimizer.swap_averages()?;
        saved?;
        if let Some(log) = &mut self.log {
            log.write_state(&folder)?;
        }
        let (state, tensors) = self.training_state()?;
        checkpoint::write(&folder, state, &tensors)?;
        checkpoint::forget(output, step)?;
        let settings = self.run.settings;
        let planned = checkpoint_steps(settings.save_every, self.steps);
        let best = settings.best.as_ref().and(self.best.at).map(|(step, _)| step);
        let all = checkpoint::checkpoints(output)?;
        let mut gone: Vec<usize> = Vec::new();
        if settings.keep != (None, None) {
            let sizes: Vec<(usize, u64)> = all.iter().map(|(step, path)| (*step, checkpoint::size(path))).collect();
            gone = checkpoint::superfluous(&sizes, best, settings.keep.0, settings.keep.1);
            let left: u64 = sizes.iter().filter(|(step, _)| !gone.contains(step)).map(|(_, size)| size).sum();
            if let Some(bytes) = settings.keep.1.filter(|bytes| left > *bytes) {
                tracing::warn!("train.keep.disk: the best and the last checkpoint alone take {left} bytes of {bytes}");
            }
        } else {
            // A best that is the best no longer, and was not asked for otherwise.
            gone.extend(all.iter().map(|c| c.0).filter(|s| *s < step && Some(*s) != best && !planned.contains(s)));
        }
        for step in gone {
            checkpoint::remove(&output.join(checkpoint_name(step)))?;
        }
        self.last_state = Instant::now();
        Ok(())
    }

    fn save_model(&self, folder: &Path, step: usize) -> Result<(), TrainError> {
        if let Some(adapter) = self.embedder.adapter() {
            return Ok(peft::save(&adapter, self.run.base_name, folder)?);
        }
        let files = self.run.base.with_weights(&self.embedder.weights());
        let card = format!(
            "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n---\n\n\
             # Checkpoint\n\n`{}` after {step} steps of training ({}) with embeval.\n",
            self.run.base_name, self.run.settings.loss_name
        );
        Ok(files.save(folder, &card)?)
    }

    fn save_state_between(&mut self) -> Result<(), TrainError> {
        let Some(output) = self.run.output else { return Ok(()) };
        let (state, tensors) = self.training_state()?;
        checkpoint::write_between(output, state, &tensors)?;
        self.last_state = Instant::now();
        Ok(())
    }

    fn training_state(&mut self) -> Result<(checkpoint::State, BTreeMap<String, Tensor>), TrainError> {
        let mut tensors = self.optimizer.state()?;
        if let Some(memory) = &mut self.state.memory {
            tensors.extend(memory.state()?);
        }
        let state = checkpoint::State {
            version: 0,
            fingerprint: self.run.fingerprint.to_string(),
            step: self.optimizer.steps(),
            tokens: self.out.tokens,
            seconds: self.out.seconds,
            truncated: self.out.truncated,
            best: self.best,
            margins: self.state.margins.as_ref().map(|m| m.state().clone()),
            stopped: self.stopped,
            history: self.log.as_ref().map_or_else(History::default, |log| log.history().clone()),
            digest: String::new(),
        };
        Ok((state, tensors))
    }

    /// The checks at the end, and what the run says of itself.
    fn finish(mut self) -> Result<(Output, Embedder), TrainError> {
        self.frozen.check(&self.embedder)?;
        let step = self.optimizer.steps();
        self.out.steps = step;
        self.out.warnings.extend(self.effect.check(&self.evaluator)?);
        let cut = guard::on_truncation(self.out.truncated, self.run.settings.max_length);
        if let Some(warning) = &cut {
            tracing::warn!("{}", warning.0);
        }
        self.out.warnings.extend(cut);
        self.out.result = step;
        if let (Some(rule), Some((best, value))) = (self.run.settings.best.as_ref(), self.best.at) {
            self.out.best = Some((rule.metric.clone(), value));
            self.out.result = best;
            let before = self.out.dev.first().filter(|p| p.step == 0).and_then(|p| p.value(&rule.metric));
            let worse = |before: f64| if rule.metric == "loss" { value >= before } else { value <= before };
            if let Some(before) = before.filter(|before| worse(*before)) {
                let message = format!(
                    "no evaluation was better than the untrained model's ({} {before:.4}); the result is the best of them ({value:.4})",
                    rule.metric
                );
                tracing::warn!("{message}");
                self.out.warnings.push(Warning(message));
            }
        }
        if let Some(output) = self.run.output {
            self.out.checkpoints = checkpoint::checkpoints(output)?;
            let result = Final { step: self.out.result, steps: step, best: self.out.best.clone() };
            let folder = output.join(checkpoint_name(self.out.result));
            if self.run.settings.adapter.is_none() {
                guard::on_saved(self.run.base, &folder)?;
            }
            if let Some(log) = &mut self.log {
                log.finish(&RunSummary { completed: true, peak_memory: None, extra: serde_json::Map::new() })?;
            }
            checkpoint::write_final(output, &result)?;
        }
        // What is handed on is what was saved.
        self.optimizer.swap_averages()?;
        Ok((self.out, self.embedder))
    }
}

/// A logged evaluation as the output has it.
fn point(record: &EvalRecord) -> DevPoint {
    let mut tasks = record.metrics.clone();
    let loss = tasks.remove("loss");
    let mrr = tasks.remove("mrr");
    DevPoint { step: record.step as usize, loss, mrr, tasks }
}

fn sampler(run: &Run<'_>) -> Result<Sampler, TrainError> {
    let sizes: Vec<SetSize> =
        run.train.iter().map(|source| SetSize { rows: source.rows.len(), weight: source.weight }).collect();
    Sampler::new(&sizes, run.settings.mix, run.settings.seed)
}

/// Refuses what cannot be seen from the settings alone.
fn check_combination(run: &Run<'_>) -> Result<(), TrainError> {
    let settings = run.settings;
    let fail = |message: String| Err(TrainError::Data(message));
    let unmatched = |pattern: &&String| !run.base.weights.keys().any(|name| glob(pattern.as_bytes(), name.as_bytes()));
    if let (None, Some(pattern)) = (&settings.adapter, settings.freeze.iter().find(unmatched)) {
        return fail(format!("train.freeze: `{pattern}` names no tensor of the model"));
    }
    let Objective::Embeddings(criterion) = &settings.objective else { return Ok(()) };
    if criterion.direction == Direction::Symmetric
        && let Some(source) = run.train.iter().chain(run.dev).find(|source| source.prompts.0 != source.prompts.1)
    {
        return fail(format!(
            "{}: objective symmetric encodes both sides alike, but the prompts are `{}` and `{}`: make them equal, or use \
             asymmetric",
            source.name, source.prompts.0, source.prompts.1
        ));
    }
    let dropout = settings.dropout.is_some_and(|d| d.hidden > 0.0 || d.attention > 0.0)
        || settings.adapter.as_ref().is_some_and(|a| a.spec.dropout > 0.0);
    if criterion.kind == Kind::SimCse && !dropout {
        return fail(
            "loss.name simcse lives on dropout, and this model's config has none: give train.dropout: 0.1".into(),
        );
    }
    if criterion.kind == Kind::Regression {
        for source in run.train.iter().chain(run.dev) {
            for row in 0..source.rows.len() {
                let score = source.rows.row(row)?.score.unwrap_or_default();
                if !(-1.0..=1.0).contains(&score) {
                    return fail(format!(
                        "{}: row {}: score {score} is no cosine, which cosine_regression aims at: scale the scores to 0 to 1, or \
                         use cosent",
                        source.name,
                        row + 1
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Makes the batches of the steps from `start` on, a few ahead of the loop.
struct Made {
    start: usize,
    per_epoch: usize,
    steps: usize,
    accumulate: usize,
}

impl Made {
    fn run(
        &self,
        fixed: Option<&[Vec<usize>]>,
        batches: &Batches<'_>,
        send: &SyncSender<Result<Parts, TrainError>>,
    ) -> Result<(), TrainError> {
        let Self { start, per_epoch, steps, accumulate } = *self;
        for epoch in start / per_epoch..steps.div_ceil(per_epoch) {
            let order: Vec<Batch> = match fixed {
                Some(fixed) => fixed.iter().map(|rows| rows.iter().map(|row| (0, *row)).collect()).collect(),
                None => batches.epoch(epoch)?,
            };
            let from = if epoch == start / per_epoch { start % per_epoch } else { 0 };
            for (group, rows) in order.chunks(accumulate).enumerate().skip(from) {
                if epoch * per_epoch + group >= steps {
                    return Ok(());
                }
                let mut parts = Vec::with_capacity(rows.len());
                for (part, rows) in rows.iter().enumerate() {
                    let place = ((epoch as u64) << 32) | (group * accumulate + part) as u64;
                    parts.push(batches.examples(rows, place)?);
                }
                if send.send(Ok(parts)).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
