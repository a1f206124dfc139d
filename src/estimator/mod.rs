//! The estimators that the protocols fit on embeddings, with scikit-learn's defaults and its path to the result.

pub mod k_nearest;
pub mod lbfgs;
pub mod linfa;
pub mod logistic_regression;
pub mod mini_batch_k_means;
pub mod product;
pub mod search;

/// What keeps an estimator from being fitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EstimatorError {
    /// Fewer rows than the estimator needs.
    #[error("{estimator} needs at least {needed} rows and has {rows}: give more rows or lower the setting")]
    TooFewRows {
        /// Which estimator.
        estimator: &'static str,
        /// Rows needed.
        needed: usize,
        /// Rows given.
        rows: usize,
    },
    /// Fewer than two classes.
    #[error("a classifier needs rows of at least two classes and has {classes}: check the labels of the training rows")]
    TooFewClasses {
        /// Classes given.
        classes: usize,
    },
    /// Rows and labels do not belong together.
    #[error("{rows} rows but {labels} labels: every row needs one label below the number of classes")]
    Labels {
        /// Rows given.
        rows: usize,
        /// Labels given.
        labels: usize,
    },
    /// Rows of another dimension than those fitted.
    #[error("rows of {given} dimensions against {fitted} that were fitted: encode both with the same model")]
    Dimensions {
        /// Dimension of the fitted rows.
        fitted: usize,
        /// Dimension of the given rows.
        given: usize,
    },
    /// The values overflow the arithmetic.
    #[error("{estimator} left the range of numbers: the embeddings are not finite or far too large; normalise them")]
    NotFinite {
        /// Which estimator.
        estimator: &'static str,
    },
    /// linfa refused or did not get anywhere.
    #[error("linfa's {estimator} failed ({message}): leave settings.estimator out for our own")]
    Linfa {
        /// Which estimator.
        estimator: &'static str,
        /// What linfa says, or what is wrong with its result.
        message: String,
    },
}
