//! Memory that was needed for a moment.

/// Gives the system back what the allocator keeps of it after a peak: with 5000 batches to read a tenth of all that the daemon
/// has. Takes milliseconds then, in which other threads may wait for memory.
pub(super) fn give_back() {
    // Other allocators do so by themselves.
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time by any thread, and changes nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
