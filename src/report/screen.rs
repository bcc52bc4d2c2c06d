//! Who has the terminal: the progress display, or somebody who is asked something there.
//!
//! A display that redraws itself would overwrite a question and what is typed. So whoever asks takes the [`Screen`]: the display is
//! cleared, the run and its reporter go on without drawing, and what they have to tell comes once the answer is there. A reporter
//! never waits for an answer.

use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use indicatif::{ProgressBar, WeakProgressBar};

/// The screen behind this process's stderr, of which there is one.
static STDERR: LazyLock<Screen> = LazyLock::new(Screen::default);

/// A screen that a display and questions take turns on. Clones are the same screen.
#[derive(Clone, Default)]
pub struct Screen {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Held while somebody is asked: one question at a time.
    question: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asking: bool,
    display: Option<WeakProgressBar>,
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

impl Screen {
    /// Returns the screen behind stderr.
    pub fn stderr() -> Self {
        STDERR.clone()
    }

    /// Runs `question` with the screen to itself, starting on an empty line. Waits for other questions; blocks its thread.
    pub fn ask<T>(&self, question: impl FnOnce() -> T) -> T {
        let _one_at_a_time = lock(&self.shared.question);
        let _asking = Asking::begin(&self.shared);
        question()
    }

    /// Makes `bar` the display that steps aside for questions.
    pub(super) fn show(&self, bar: &ProgressBar) {
        lock(&self.shared.state).display = Some(bar.downgrade());
    }

    /// Runs `draw` unless somebody is being asked something; returns true if it ran.
    pub(super) fn draw(&self, draw: impl FnOnce()) -> bool {
        // Held while drawing, so that no question begins in the middle of a frame.
        let state = lock(&self.shared.state);
        if !state.asking {
            draw();
        }
        !state.asking
    }
}

/// A question that is being asked; it ends when this is dropped.
struct Asking<'a>(&'a Shared);

impl<'a> Asking<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let mut state = lock(&shared.state);
        state.asking = true;
        if let Some(bar) = state.display.as_ref().and_then(WeakProgressBar::upgrade) {
            bar.set_message("");
            bar.force_draw();
        }
        Self(shared)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).asking = false;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these stays right even if somebody panicked while holding it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
