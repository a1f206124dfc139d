//! An end on the user's wish.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Head;
use crate::exec::slurm::error::SlurmError;
use crate::exec::slurm::event::Event;
use crate::exec::slurm::job::Summary;
use crate::exec::slurm::queue::Phase;

/// The longest wait between two looks while jobs end.
const LOOK: Duration = Duration::from_secs(2);
/// Looks after which arrays that are still there are cancelled once more.
const ONCE_MORE: usize = 15;

impl Head<'_> {
    /// Cancels this run's jobs and waits until they are gone, or for a second interrupt.
    ///
    /// # Errors
    /// Where the controller stays away, or the ledger cannot be written.
    pub(super) fn cancel(&mut self) -> Result<Summary, SlurmError> {
        self.heeded = 1;
        let mut asked: BTreeSet<u64> = BTreeSet::new();
        let mut looks = 0;
        while self.interrupted() < 2 {
            let Some(elements) = self.look()? else { continue };
            let live: BTreeSet<u64> = elements.values().filter(|e| e.phase() != Phase::Over).map(|e| e.array).collect();
            if live.is_empty() {
                break;
            }
            if looks == 0 {
                self.tell(Event::Cancelling { arrays: live.len() });
            }
            if looks % ONCE_MORE == 0 {
                asked.clear();
            }
            let new: Vec<String> = live.difference(&asked).map(u64::to_string).collect();
            if !new.is_empty() {
                // What it says does not matter: the next look tells whether they are gone.
                self.call("scancel", &new)?;
                asked.extend(&live);
            }
            looks += 1;
            self.pause(self.poll.min(LOOK));
        }
        if self.interrupted() < 2 {
            self.close_all()?;
        }
        Ok(self.summary(true))
    }

    /// Nothing of this run is in the queue any more.
    fn close_all(&mut self) -> Result<(), SlurmError> {
        for number in self.ledger.open_numbers() {
            let submission = &mut self.ledger.submissions[number];
            submission.dropped |= submission.array.is_none();
            for held in submission.elements.values_mut().filter(|held| held.end.is_none()) {
                held.end = Some("CANCELLED".into());
            }
        }
        self.ledger.save()
    }
}
