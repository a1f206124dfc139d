//! Merges of a tiny encoder with changed copies of itself, against closed forms.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::linear::Mean;
use super::slerp::{self, Mode};
use super::{check, depth};
use crate::model::ModelFiles;

/// The golden model of `tests/data/models/make_models.py`.
fn model() -> ModelFiles {
    ModelFiles::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/bert")).unwrap()
}

fn values(files: &ModelFiles, name: &str) -> Vec<f32> {
    files.weights[name].flatten_all().unwrap().to_vec1().unwrap()
}

/// The model with every value changed by its place: `x + amount · sin(place + phase)`.
fn changed(files: &ModelFiles, amount: f32, phase: f32) -> ModelFiles {
    let change = |tensor: &Tensor| {
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let out = values.iter().enumerate().map(|(i, x)| x + amount * (i as f32 + phase).sin()).collect();
        Tensor::from_vec(out, tensor.dims(), &Device::Cpu).unwrap()
    };
    files.with_weights(&files.weights.iter().map(|(name, tensor)| (name.clone(), change(tensor))).collect())
}

fn same(a: &ModelFiles, b: &ModelFiles) -> bool {
    a.weights.keys().all(|name| values(a, name).iter().zip(values(b, name)).all(|(x, y)| x.to_bits() == y.to_bits()))
}

/// Shoemake's formula, in f64 and written apart.
fn closed_form(a: &[f32], b: &[f32], alpha: f64) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let (x, y) = if cosine.abs() > slerp::PARALLEL {
        (1.0 - alpha, alpha)
    } else {
        let angle = cosine.acos();
        (((1.0 - alpha) * angle).sin() / angle.sin(), (alpha * angle).sin() / angle.sin())
    };
    a.iter().zip(b).map(|(a, b)| x * f64::from(*a) + y * f64::from(*b)).collect()
}

#[test]
fn slerp_by_layer_is_slerp_at_each_layers_alpha() {
    let first = model();
    let second = changed(&first, 0.5, 1.0);
    let layers = first.architecture.layers();
    let alphas = [0.2, 0.9];
    let merged = slerp::models(&first, &second, None, &alphas, Mode::Tensor).unwrap().files;
    let mut seen = std::collections::BTreeSet::new();
    for name in first.weights.keys() {
        let alpha = depth::of_tensor(&alphas, name, layers);
        seen.insert(format!("{alpha}"));
        let expected = closed_form(&values(&first, name), &values(&second, name), alpha);
        for (got, expected) in values(&merged, name).iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() < 1e-6, "{name}: {got} {expected}");
        }
    }
    assert!(seen.len() >= 2, "{seen:?}");
}

#[test]
fn equal_ends_are_the_plain_merge_to_the_bit() {
    let base = model();
    let (first, second) = (changed(&base, 0.3, 0.0), changed(&base, 0.3, 2.0));
    for mode in [Mode::Tensor, Mode::Whole, Mode::Delta] {
        let at = |alpha: &[f64]| slerp::models(&first, &second, Some(&base), alpha, mode).unwrap().files;
        let plain = at(&[0.37]);
        assert!(same(&at(&[0.37, 0.37]), &plain) && same(&at(&[0.37, 0.37, 0.37]), &plain));
        assert!(!same(&at(&[0.37, 0.38]), &plain));
    }
}

#[test]
fn the_whole_model_has_one_angle_at_every_alpha() {
    let first = model();
    let second = changed(&first, 0.5, 1.0);
    let merged = slerp::models(&first, &second, None, &[0.0, 1.0], Mode::Whole).unwrap().files;
    // At the ends of the depth stand the models themselves.
    let near = |files: &ModelFiles, name: &str| {
        values(&merged, name).iter().zip(values(files, name)).all(|(x, y)| (x - y).abs() < 1e-6)
    };
    assert!(near(&first, "embeddings.word_embeddings.weight"));
    let last = format!("encoder.layer.{}.output.dense.weight", first.architecture.layers() - 1);
    assert!(near(&second, &last) && !near(&first, &last));
}

#[test]
fn the_mean_of_a_model_with_itself_is_itself_to_the_bit() {
    let files = changed(&model(), 0.3, 0.7);
    for weights in [vec![0.5, 0.5], vec![1.0 / 3.0; 3], vec![0.3, 0.7], vec![0.1; 10]] {
        let mut mean = Mean::new(files.clone(), weights[0]).unwrap();
        weights[1..].iter().for_each(|&weight| mean.add(&files, weight).unwrap());
        assert!(same(&mean.finish().unwrap(), &files), "{weights:?}");
    }
}

#[test]
fn a_mean_is_the_weighted_sum() {
    let base = model();
    let models: Vec<ModelFiles> = [0.0, 1.0, 2.0].map(|phase| changed(&base, 0.4, phase)).to_vec();
    let weights = [0.5, 0.3, 0.2];
    let mut mean = Mean::new(models[0].clone(), weights[0]).unwrap();
    mean.add(&models[1], weights[1]).unwrap();
    mean.add(&models[2], weights[2]).unwrap();
    let mean = mean.finish().unwrap();
    for name in base.weights.keys() {
        let all: Vec<Vec<f32>> = models.iter().map(|files| values(files, name)).collect();
        for (place, got) in values(&mean, name).iter().enumerate() {
            let exact: f64 = all.iter().zip(weights).map(|(v, weight)| weight * f64::from(v[place])).sum();
            assert_eq!(*got, exact as f32, "{name} {place}");
        }
    }
}

#[test]
fn a_weight_of_one_is_that_model_and_of_nothing_none() {
    let first = model();
    let second = changed(&first, 0.5, 1.0);
    // A negative zero keeps its sign.
    let name = "embeddings.LayerNorm.bias";
    let zeros =
        Tensor::from_vec(vec![-0f32; values(&first, name).len()], first.weights[name].dims(), &Device::Cpu).unwrap();
    let first = first.with_weights(&[(name.to_string(), zeros)].into_iter().collect());
    let of = |weights: [f64; 2]| {
        let mut mean = Mean::new(first.clone(), weights[0])?;
        mean.add(&second, weights[1])?;
        mean.finish()
    };
    assert!(same(&of([1.0, 0.0]).unwrap(), &first));
    assert!(same(&of([0.0, 1.0]).unwrap(), &second));
    assert!(of([0.0, 0.0]).unwrap_err().to_string().contains("all weights are 0"));
    assert!(of([0.5, -0.5]).unwrap_err().to_string().contains("weight -0.5: must be a number from 0"));
    assert!(of([f64::NAN, 0.5]).is_err());
}

#[test]
fn models_that_do_not_fit_are_refused() {
    let first = model();
    let mut pooled = first.clone();
    pooled.layout.prompts.named.insert("query".into(), "q: ".into());
    let mut smaller = first.clone();
    smaller.weights.remove("pooler.dense.bias");
    for (other, expected) in [(pooled, "the prompts differ"), (smaller, "it has no tensor `pooler.dense.bias`")] {
        let error = check(&first, &other).unwrap_err().to_string();
        assert!(error.contains("cannot be merged with") && error.contains(expected), "{error}");
        assert_eq!(Mean::new(first.clone(), 0.5).unwrap().add(&other, 0.5).unwrap_err().to_string(), error);
        assert!(slerp::models(&first, &other, None, &[0.5], Mode::Tensor).is_err());
    }
    let alpha = |alpha: &[f64]| slerp::models(&first, &first, None, alpha, Mode::Tensor);
    assert!(alpha(&[0.5, 1.5]).unwrap_err().to_string().contains("alpha 1.5 must be from 0 to 1"));
    assert!(alpha(&[]).unwrap_err().to_string().contains("no alpha is given"));
    assert!(alpha(&[f64::NAN]).is_err());
}
