//! Which jobs go into one array, and what the array waits for.
//!
//! An array has one `--dependency`. Three of Slurm's forms keep a failed job from holding up those that do not need it:
//!
//! - `aftercorr:41`: element 7 waits for element 7 of array 41 alone. An array's numbers are free, so each job takes the number of the
//!   one that it waits for: a trial's scoring starts when its own training ends.
//! - `afterok:41_3:41_7`: jobs that wait for the same ones, such as a merge of two trials, or all trainings of a base that is made first.
//! - `afterany:41`: where there are too many different sets; the whole arrays are over then, and a worker whose inputs are missing
//!   leaves its steps alone.

use std::collections::{BTreeMap, BTreeSet};

/// An element of a submission: the submission's number and the element's.
pub(super) type Place = (usize, u32);

/// A job that can be submitted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ready {
    /// Its number among the jobs.
    pub job: usize,
    /// Its stage.
    pub stage: usize,
    /// The elements that it waits for, all of them in the queue.
    pub needs: BTreeSet<Place>,
}

/// What an array waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dependency {
    /// Nothing.
    None,
    /// Each element for the one of the same number of this submission.
    Corresponding(usize),
    /// All elements for these to succeed.
    Succeeded(BTreeSet<Place>),
    /// All elements for the end of these submissions.
    Over(BTreeSet<usize>),
}

/// An array to be submitted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Batch {
    /// What it waits for.
    pub dependency: Dependency,
    /// The jobs by their number in the array.
    pub elements: BTreeMap<u32, usize>,
}

/// Most arrays of a stage whose jobs wait for sets that differ; beyond, they wait for whole submissions.
const SETS: usize = 40;

/// Puts jobs into arrays, stage by stage; no array has more elements than `most`.
pub(super) fn batches(ready: &[Ready], most: usize) -> Vec<Batch> {
    let mut stages: BTreeMap<usize, BTreeMap<&BTreeSet<Place>, Vec<usize>>> = BTreeMap::new();
    for one in ready {
        stages.entry(one.stage).or_default().entry(&one.needs).or_default().push(one.job);
    }
    let mut out = Vec::new();
    for sets in stages.values() {
        let mut single: BTreeMap<usize, BTreeMap<u32, &[usize]>> = BTreeMap::new();
        let mut several = Vec::new();
        for (&needs, jobs) in sets {
            match needs.first() {
                None => numbered(Dependency::None, jobs, most, &mut out),
                Some(&(submission, task)) if needs.len() == 1 => {
                    single.entry(submission).or_default().insert(task, jobs);
                }
                Some(_) => several.push((needs, jobs)),
            }
        }
        for (submission, tasks) in single {
            after_one(submission, &tasks, most, &mut out);
        }
        if several.len() <= SETS {
            for (needs, jobs) in several {
                numbered(Dependency::Succeeded(needs.clone()), jobs, most, &mut out);
            }
        } else {
            let all: BTreeSet<usize> =
                several.iter().flat_map(|(needs, _)| needs.iter().map(|place| place.0)).collect();
            let jobs: Vec<usize> = several.iter().flat_map(|(_, jobs)| jobs.iter().copied()).collect();
            numbered(Dependency::Over(all), &jobs, most, &mut out);
        }
    }
    out
}

/// Jobs that wait for one element each, all of one submission: as few arrays as there can be.
fn after_one(submission: usize, tasks: &BTreeMap<u32, &[usize]>, most: usize, out: &mut Vec<Batch>) {
    let layers = tasks.values().map(|jobs| jobs.len()).max().unwrap_or(0);
    if tasks.len() == 1 || tasks.len() < layers {
        for (&task, jobs) in tasks {
            numbered(Dependency::Succeeded(BTreeSet::from([(submission, task)])), jobs, most, out);
        }
        return;
    }
    for layer in 0..layers {
        let elements: Vec<(u32, usize)> =
            tasks.iter().filter_map(|(&task, jobs)| Some((task, *jobs.get(layer)?))).collect();
        for part in elements.chunks(most.max(1)) {
            let elements = part.iter().copied().collect();
            out.push(Batch { dependency: Dependency::Corresponding(submission), elements });
        }
    }
}

/// Arrays numbered from 1.
fn numbered(dependency: Dependency, jobs: &[usize], most: usize, out: &mut Vec<Batch>) {
    for part in jobs.chunks(most.max(1)) {
        out.push(Batch { dependency: dependency.clone(), elements: (1..).zip(part.iter().copied()).collect() });
    }
}

/// `--array`'s list of numbers: `1-3,7`.
pub(super) fn ranges(tasks: impl IntoIterator<Item = u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for task in tasks {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == task => *last = task,
            _ => runs.push((task, task)),
        }
    }
    let shown: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    shown.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(job: usize, stage: usize, needs: &[Place]) -> Ready {
        Ready { job, stage, needs: needs.iter().copied().collect() }
    }

    fn batch(dependency: Dependency, elements: &[(u32, usize)]) -> Batch {
        Batch { dependency, elements: elements.iter().copied().collect() }
    }

    #[test]
    fn independent_jobs_of_a_stage_are_one_array() {
        let jobs = [ready(0, 1, &[]), ready(1, 3, &[]), ready(2, 1, &[])];
        assert_eq!(
            batches(&jobs, 100),
            [batch(Dependency::None, &[(1, 0), (2, 2)]), batch(Dependency::None, &[(1, 1)])]
        );
    }

    #[test]
    fn a_job_takes_the_number_of_the_one_that_it_waits_for() {
        let jobs = [ready(5, 3, &[(0, 2)]), ready(6, 3, &[(0, 9)]), ready(7, 3, &[(0, 2)])];
        assert_eq!(
            batches(&jobs, 100),
            [batch(Dependency::Corresponding(0), &[(2, 5), (9, 6)]), batch(Dependency::Corresponding(0), &[(2, 7)]),]
        );
    }

    #[test]
    fn all_that_wait_for_one_job_are_one_array() {
        let jobs: Vec<Ready> = (0..4).map(|n| ready(n, 1, &[(0, 1)])).collect();
        let waits = Dependency::Succeeded([(0, 1)].into());
        assert_eq!(batches(&jobs, 100), [batch(waits, &[(1, 0), (2, 1), (3, 2), (4, 3)])]);
    }

    #[test]
    fn merges_wait_for_their_own_trials() {
        let jobs = [ready(0, 2, &[(0, 1), (0, 2)]), ready(1, 2, &[(0, 3), (1, 1)]), ready(2, 2, &[(0, 1), (0, 2)])];
        assert_eq!(
            batches(&jobs, 100),
            [
                batch(Dependency::Succeeded([(0, 1), (0, 2)].into()), &[(1, 0), (2, 2)]),
                batch(Dependency::Succeeded([(0, 3), (1, 1)].into()), &[(1, 1)]),
            ]
        );
        // Too many sets for arrays of their own: one array after all of both submissions.
        let many: Vec<Ready> = (0..50).map(|n| ready(n, 2, &[(0, n as u32 + 1), (1, 1)])).collect();
        let made = batches(&many, 100);
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].dependency, Dependency::Over([0, 1].into()));
        assert_eq!(made[0].elements.len(), 50);
    }

    #[test]
    fn large_stages_are_split() {
        let jobs: Vec<Ready> = (0..7).map(|n| ready(n, 1, &[])).collect();
        let sizes: Vec<Vec<u32>> = batches(&jobs, 3).iter().map(|b| b.elements.keys().copied().collect()).collect();
        assert_eq!(sizes, [vec![1, 2, 3], vec![1, 2, 3], vec![1]]);
    }

    #[test]
    fn numbers_are_listed_as_ranges() {
        assert_eq!(ranges([1, 2, 3, 7, 9, 10]), "1-3,7,9-10");
        assert_eq!(ranges([4]), "4");
        assert_eq!(ranges([]), "");
    }
}
