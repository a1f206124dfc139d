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
    keep_memory();
    embeval::cli::run()
}

/// Gives memory back to the operating system after a minute, not after one second: an encoder's buffers are freed and taken again
/// many times a second, and pages that come anew must be cleared (a fifth of the time of a training step).
fn keep_memory() {
    // `mi_option_purge_delay` of mimalloc.h, which the bindings leave out.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    const MILLISECONDS: std::ffi::c_long = 60_000;
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: a known option of this allocator, which checks the number.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, MILLISECONDS) };
    }
}
