//! The jobs' order.

use std::collections::BTreeMap;

use crate::exec::slurm::error::SlurmError;
use crate::exec::slurm::job::Job;

/// Which job makes a step, and an order in which none comes before what it waits for.
#[derive(Debug)]
pub(super) struct Graph {
    pub maker: BTreeMap<String, usize>,
    pub order: Vec<usize>,
}

impl Graph {
    /// Checks the jobs.
    ///
    /// # Errors
    /// Where a step is in two jobs, an id cannot be passed to a worker, or jobs wait for each other.
    pub fn of(jobs: &[Job]) -> Result<Self, SlurmError> {
        let mut maker = BTreeMap::new();
        for (number, job) in jobs.iter().enumerate() {
            for step in &job.steps {
                if step.is_empty() || step.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control()) {
                    return Err(SlurmError::Graph(format!("{}: step id {step:?} cannot be passed on", job.title)));
                }
                if maker.insert(step.clone(), number).is_some() {
                    return Err(SlurmError::Graph(format!("{}: step {step} is in two jobs", job.title)));
                }
            }
        }
        let mut graph = Self { maker, order: Vec::new() };
        let mut waits: Vec<usize> = jobs.iter().enumerate().map(|(n, job)| graph.before(n, job).len()).collect();
        let mut after: Vec<Vec<usize>> = vec![Vec::new(); jobs.len()];
        for (number, job) in jobs.iter().enumerate() {
            for first in graph.before(number, job) {
                after[first].push(number);
            }
        }
        let mut free: Vec<usize> = (0..jobs.len()).rev().filter(|&n| waits[n] == 0).collect();
        while let Some(number) = free.pop() {
            graph.order.push(number);
            for &next in &after[number] {
                waits[next] -= 1;
                if waits[next] == 0 {
                    free.push(next);
                }
            }
        }
        match waits.iter().position(|&left| left > 0) {
            None => Ok(graph),
            Some(number) => Err(SlurmError::Graph(format!("{}: waits for itself", jobs[number].title))),
        }
    }

    /// The jobs that make what a job waits for, one entry a step.
    fn before(&self, number: usize, job: &Job) -> Vec<usize> {
        job.after.iter().filter_map(|step| self.maker.get(step).copied()).filter(|&first| first != number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(step: &str, after: &[&str]) -> Job {
        Job {
            steps: vec![step.into()],
            title: step.to_uppercase(),
            stage: 0,
            after: after.iter().map(|s| s.to_string()).collect(),
        }
    }

    #[test]
    fn no_job_comes_before_what_it_waits_for() {
        let jobs = [job("d", &["b", "c"]), job("b", &["a"]), job("c", &["a"]), job("a", &[])];
        let order = Graph::of(&jobs).unwrap().order;
        let place = |n: usize| order.iter().position(|&o| o == n).unwrap();
        assert_eq!(order.len(), 4);
        assert!(place(3) < place(1) && place(3) < place(2) && place(1) < place(0) && place(2) < place(0));
    }

    #[test]
    fn contradictions_are_told() {
        let fault = |jobs: &[Job]| Graph::of(jobs).unwrap_err().to_string();
        assert_eq!(fault(&[job("a", &["b"]), job("b", &["a"])]), "A: waits for itself");
        assert_eq!(fault(&[job("a", &[]), job("a", &[])]), "A: step a is in two jobs");
        assert!(fault(&[job("a,b", &[])]).contains("cannot be passed on"));
    }
}
