//! Spherical linear interpolation (Shoemake 1985) of two models' weights.

use candle_core::{DType, Device, Tensor};

use super::{check, depth};
use crate::model::weights::Weights;
use crate::model::{ModelError, ModelFiles};

/// What is interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each tensor by itself.
    Tensor,
    /// All weights as one vector.
    Whole,
    /// Each tensor's change from the base that both started from.
    Delta,
}

/// Above this cosine (in size) two vectors are taken for parallel or opposite and interpolated linearly, as in mergekit.
pub const PARALLEL: f64 = 0.9995;

/// Interpolates two vectors: `sin((1−α)θ)/sin θ · a + sin(αθ)/sin θ · b`, θ the angle between them. Where |cos θ| is above
/// [`PARALLEL`], or one is zero, `(1−α) a + α b`. The flag says whether it was linear.
pub fn vectors(a: &[f32], b: &[f32], alpha: f64) -> (Vec<f32>, bool) {
    let (x, y, linear) = weights(dots(a, b), alpha);
    (combine(a, b, x, y), linear)
}

/// (a·b, a·a, b·b).
fn dots(a: &[f32], b: &[f32]) -> (f64, f64, f64) {
    a.iter().zip(b).fold((0.0, 0.0, 0.0), |(ab, aa, bb), (x, y)| {
        let (x, y) = (f64::from(*x), f64::from(*y));
        (ab + x * y, aa + x * x, bb + y * y)
    })
}

/// Factors of a and b, and whether they are the linear ones.
fn weights((ab, aa, bb): (f64, f64, f64), alpha: f64) -> (f64, f64, bool) {
    let cosine = if aa > 0.0 && bb > 0.0 { (ab / (aa.sqrt() * bb.sqrt())).clamp(-1.0, 1.0) } else { 1.0 };
    if cosine.abs() > PARALLEL {
        return (1.0 - alpha, alpha, true);
    }
    let angle = cosine.acos();
    let sine = angle.sin();
    (((1.0 - alpha) * angle).sin() / sine, (alpha * angle).sin() / sine, false)
}

fn combine(a: &[f32], b: &[f32], x: f64, y: f64) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| (x * f64::from(*a) + y * f64::from(*b)) as f32).collect()
}

/// A merged model and how it came about.
#[derive(Debug, Clone)]
pub struct Merged {
    /// The first model's files with the merged weights.
    pub files: ModelFiles,
    /// Share of the tensors that differ which were interpolated linearly, 0 to 1.
    pub linear_share: f64,
}

/// SLERP of two models; α 0 is the first, 1 the second. One `alpha` holds for all tensors, several are values along the depth
/// ([`depth::of_tensor`]). `base` is what both started from, needed for [`Mode::Delta`]. In [`Mode::Whole`] the angle is that
/// of the whole, whatever α a tensor has.
///
/// # Errors
/// Where the models cannot be merged ([`check`]), an α is outside 0 to 1 or none is given, or the base is missing.
pub fn models(
    first: &ModelFiles,
    second: &ModelFiles,
    base: Option<&ModelFiles>,
    alpha: &[f64],
    mode: Mode,
) -> Result<Merged, ModelError> {
    check(first, second)?;
    if let Some(alpha) = alpha.iter().find(|alpha| !(0.0..=1.0).contains(*alpha)) {
        return Err(ModelError::file(&first.path, format!("alpha {alpha} must be from 0 to 1")));
    }
    if alpha.is_empty() {
        return Err(ModelError::file(&first.path, "no alpha is given"));
    }
    let layers = first.architecture.layers();
    let base = match (mode, base) {
        (Mode::Delta, None) => {
            return Err(ModelError::file(
                &first.path,
                "SLERP of the changes needs the base that both models started from",
            ));
        }
        (Mode::Delta, Some(base)) => {
            check(base, first)?;
            Some(base)
        }
        _ => None,
    };
    let values =
        |t: &Tensor| -> Result<Vec<f32>, ModelError> { Ok(t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?) };
    let whole = if mode == Mode::Whole {
        let mut sums = (0.0, 0.0, 0.0);
        for (name, a) in &first.weights {
            let (ab, aa, bb) = dots(&values(a)?, &values(&second.weights[name])?);
            sums = (sums.0 + ab, sums.1 + aa, sums.2 + bb);
        }
        Some(sums)
    } else {
        None
    };
    let (mut merged, mut differ, mut linear) = (Weights::new(), 0usize, 0usize);
    for (name, tensor) in &first.weights {
        let (a, b) = (values(tensor)?, values(&second.weights[name])?);
        if a == b {
            merged.insert(name.clone(), tensor.clone());
            continue;
        }
        differ += 1;
        let alpha = depth::of_tensor(alpha, name, layers);
        let (out, was_linear) = match (whole, base) {
            (Some(sums), _) => {
                let (x, y, was_linear) = weights(sums, alpha);
                (combine(&a, &b, x, y), was_linear)
            }
            (None, Some(base)) => {
                let start = values(&base.weights[name])?;
                let minus = |v: &[f32]| -> Vec<f32> { v.iter().zip(&start).map(|(v, s)| v - s).collect() };
                let (delta, was_linear) = vectors(&minus(&a), &minus(&b), alpha);
                (start.iter().zip(delta).map(|(s, d)| s + d).collect(), was_linear)
            }
            (None, None) => vectors(&a, &b, alpha),
        };
        linear += usize::from(was_linear);
        merged.insert(name.clone(), Tensor::from_vec(out, tensor.dims(), &Device::Cpu)?);
    }
    Ok(Merged {
        files: first.with_weights(&merged),
        linear_share: if differ == 0 { 0.0 } else { linear as f64 / differ as f64 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: &[f32], want: &[f64]) {
        for (g, w) in got.iter().zip(want) {
            assert!((f64::from(*g) - w).abs() < 1e-6, "{got:?} {want:?}");
        }
    }

    #[test]
    fn endpoints_are_the_models() {
        let (a, b) = ([1f32, 2.0, -3.0], [0.5f32, -1.0, 4.0]);
        close(&vectors(&a, &b, 0.0).0, &[1.0, 2.0, -3.0]);
        close(&vectors(&a, &b, 1.0).0, &[0.5, -1.0, 4.0]);
    }

    #[test]
    fn half_way_between_right_angles_is_45_degrees() {
        let (out, linear) = vectors(&[1.0, 0.0], &[0.0, 1.0], 0.5);
        let r = 0.5f64.sqrt();
        close(&out, &[r, r]);
        assert!(!linear);
        // At a third, 30 degrees.
        close(&vectors(&[1.0, 0.0], &[0.0, 1.0], 1.0 / 3.0).0, &[3f64.sqrt() / 2.0, 0.5]);
    }

    #[test]
    fn parallel_and_opposite_and_zero_are_linear() {
        let (out, linear) = vectors(&[1.0, 1.0], &[3.0, 3.0], 0.25);
        close(&out, &[1.5, 1.5]);
        assert!(linear);
        let (out, linear) = vectors(&[1.0, 0.0], &[-1.0, 0.0], 0.25);
        close(&out, &[0.5, 0.0]);
        assert!(linear);
        let (out, linear) = vectors(&[0.0, 0.0], &[2.0, 4.0], 0.5);
        close(&out, &[1.0, 2.0]);
        assert!(linear);
    }

    #[test]
    fn unit_vectors_stay_unit_vectors() {
        let (a, b) = ([0.6f32, 0.8], [-0.8f32, 0.6]);
        for i in 0..=10 {
            let out = vectors(&a, &b, f64::from(i) / 10.0).0;
            assert!((out[0].hypot(out[1]) - 1.0).abs() < 1e-6);
        }
    }
}
