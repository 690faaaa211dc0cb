//! The tests' half: TESTS IN OUT REPORT, the token on stdin. The report is as evaluation/case.py has it.

use crate::{read_message, write_message, Get, Put, Reader, Writer, Wrong};
use std::fs::File;
use std::io::{Read, Write};
use std::os::raw::c_char;
use std::panic::{catch_unwind, set_hook};
use std::process::exit;
use std::sync::atomic::Ordering;
use std::sync::Mutex;

const REASON_BYTES: usize = 8192;

struct Pipes { incoming: File, outgoing: File, report: File, calls: usize, panicked: String }

static PIPES: Mutex<Option<Pipes>> = Mutex::new(None);

fn with<T>(act: impl FnOnce(&mut Pipes) -> T) -> T {
    act(PIPES.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).as_mut().expect("the pipes are open"))
}

fn leave(kind: &str, reason: &str) -> ! {
    let reason = &reason.as_bytes()[..reason.len().min(REASON_BYTES)];
    let said = [kind.as_bytes(), b"\n", reason].concat();
    exit(if with(|pipes| pipes.report.write_all(&said)).is_ok() { 1 } else { 2 })
}

/// A call of the program's function, as the forwarder that the tests call spells it out.
pub struct Call { out: Writer, answer: Reader }

impl Call {
    pub fn new() -> Call { Call { out: Writer::default(), answer: Reader::new(Vec::new()) } }

    pub fn pass<T: Put + ?Sized>(&mut self, value: &T) { value.put(&mut self.out); }

    /// Returns when the program has answered; panics where it did.
    #[track_caller]
    pub fn run(&mut self) {
        if self.out.bytes.len() > crate::MESSAGE_BYTES {
            // After the first call they may hold what the program returned, which must not stop the evaluator.
            let calls = with(|pipes| pipes.calls);
            let kind = if calls == 0 { "broken" } else { "failed" };
            leave(kind, &format!("the tests pass values that are too long, after {} calls", calls));
        }
        let message = with(|pipes| {
            pipes.calls += 1;
            if write_message(&mut pipes.outgoing, &self.out.bytes) { read_message(&mut pipes.incoming) } else { None }
        });
        self.answer = Reader::new(message.unwrap_or_else(|| leave("ended", "")));
        if let Err(text) = self.read::<Result<(), String>>() {
            panic!("the program panicked: {}", text);
        }
    }

    /// The result, and behind it what was lent, as the call left it.
    pub fn read<T: Get>(&mut self) -> T {
        let call = with(|pipes| pipes.calls);
        match T::get(&mut self.answer) {
            Ok(value) => value,
            Err(Wrong::Broken(what)) => leave("refused", &format!("the program sent {}, at call {}", what, call)),
            Err(Wrong::Unfit(what)) => leave("failed", &format!("the program answered {}, at call {}", what, call)),
        }
    }

    /// What was lent, as the call left it; a slice keeps its length.
    pub fn read_into<T: Get>(&mut self, place: &mut [T]) {
        let values: Vec<T> = self.read();
        if values.len() != place.len() { leave("refused", "the program sent a slice of another length"); }
        place.iter_mut().zip(values).for_each(|(place, value)| *place = value);
    }
}

/// One test: its name, the function, and whether it has to panic.
pub type Test = (&'static str, fn(), bool);

/// Whose tests are to run, of several problems' (the first argument), and the words of the command as `run` has them.
pub fn chosen(argv: *const *const c_char) -> (i32, *const *const c_char) {
    unsafe { (crate::number(argv, 1), argv.add(1)) }
}

/// Runs the tests one after the other; `first_line` is where their text begins in the compiled one.
pub fn run(argv: *const *const c_char, first_line: usize, tests: &[Test]) -> ! {
    let (incoming, outgoing, report) = (crate::pipe(argv, 1), crate::pipe(argv, 2), crate::pipe(argv, 3));
    crate::ignore_closed_pipes();
    *PIPES.lock().unwrap() = Some(Pipes { incoming, outgoing, report, calls: 0, panicked: String::new() });
    with(|pipes| pipes.report.write_all(b"ready\n")).unwrap();
    let mut token = String::new();
    std::io::stdin().read_to_string(&mut token).unwrap();
    if with(|pipes| read_message(&mut pipes.incoming)) != Some(b"!".to_vec()) { leave("not started", ""); }
    set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>().cloned()
            .or_else(|| panic.payload().downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
        let line = panic.location().map_or(0, |place| place.line() as usize);
        let at = if line > first_line { format!(", at test line {}", line - first_line) } else { String::new() };
        with(|pipes| pipes.panicked = format!("{}{}", text, at));
    }));
    for (name, test, has_to_panic) in tests {
        let panicked = catch_unwind(test).is_err();
        let text = with(|pipes| pipes.panicked.clone());
        if panicked && crate::UNCARRIED.load(Ordering::Relaxed) { leave("broken", &text); }
        if panicked && !has_to_panic { leave("failed", &format!("{}: {}", name, text)); }
        if !panicked && *has_to_panic { leave("failed", &format!("{}: it should panic and does not", name)); }
    }
    if tests.is_empty() { leave("broken", "they hold no function with #[test]"); }
    if with(|pipes| pipes.report.write_all(token.as_bytes())).is_err() { exit(2); }
    exit(0)
}
