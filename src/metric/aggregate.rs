//! Means over tasks and task types. A missing score is never averaged over: it blanks every mean that it belongs to.

/// The unweighted mean of the scores; `None` for an empty list or where one is missing or not finite.
pub fn mean_task(scores: &[Option<f64>]) -> Option<f64> {
    if scores.is_empty() {
        return None;
    }
    let mut sum = 0.0;
    for score in scores {
        sum += (*score).filter(|score| score.is_finite())?;
    }
    Some(sum / scores.len() as f64)
}

/// The mean score of every task type, in order of first appearance; `None` where a task of the type is missing.
pub fn type_means<T: PartialEq + Clone>(scores: &[(T, Option<f64>)]) -> Vec<(T, Option<f64>)> {
    let mut types: Vec<(T, Vec<Option<f64>>)> = Vec::new();
    for (task_type, score) in scores {
        match types.iter_mut().find(|(known, _)| known == task_type) {
            Some((_, of_type)) => of_type.push(*score),
            None => types.push((task_type.clone(), vec![*score])),
        }
    }
    types.into_iter().map(|(task_type, of_type)| (task_type, mean_task(&of_type))).collect()
}

/// The unweighted mean of the type means; `None` where a type mean is.
pub fn mean_task_type<T: PartialEq + Clone>(scores: &[(T, Option<f64>)]) -> Option<f64> {
    let means: Vec<Option<f64>> = type_means(scores).into_iter().map(|(_, mean)| mean).collect();
    mean_task(&means)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_weigh_equally_and_a_missing_task_blanks() {
        let full = [("STS", Some(0.5)), ("Clustering", Some(0.2)), ("STS", Some(0.7))];
        assert_eq!(mean_task(&full.map(|(_, score)| score)), Some((0.5 + 0.2 + 0.7) / 3.0));
        assert_eq!(mean_task_type(&full), Some(((0.5 + 0.7) / 2.0 + 0.2) / 2.0));
        let holed = [("STS", Some(0.5)), ("Clustering", Some(0.2)), ("STS", None)];
        assert_eq!(type_means(&holed), [("STS", None), ("Clustering", Some(0.2))]);
        assert_eq!(mean_task_type(&holed), None);
        assert_eq!(mean_task(&[]), None);
        assert_eq!(mean_task(&[Some(f64::NAN)]), None);
    }
}
