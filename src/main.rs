//! The `embeval` command.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // candle's own pool shares the cores with rayon's: left to spin, it takes a fifth of the time of a training step.
    const SPIN: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";
    if std::env::var_os(SPIN).is_none() {
        // SAFETY: no other thread has been started.
        unsafe { std::env::set_var(SPIN, "0") };
    }
    embeval::cli::run()
}
