//! The program's half: answers calls of its function. PROGRAM IN OUT.
//!
//! Nothing here is worth reading for the program, and all that it gains by changing it is to answer calls. That the box
//! stands is said before any of the program's own code can run.

use crate::{read_message, write_message, Get, Put, Reader, Writer, Wrong};
use std::any::Any;
use std::os::raw::c_char;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// A call that is being answered.
pub struct Asked { from: Reader, out: Writer }

impl Asked {
    /// The next argument; its type is what the program's function takes there.
    pub fn argument<T: Get>(&mut self) -> T {
        match T::get(&mut self.from) {
            Ok(value) => value,
            Err(Wrong::Broken(what)) | Err(Wrong::Unfit(what)) => panic!("the function was called with {}", what),
        }
    }
    /// The result, and behind it what the tests lent.
    pub fn answer<T: Put>(&mut self, value: T) { value.put(&mut self.out); }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
        .unwrap_or_else(|| "a panic without a text".to_string())
}

/// Answers until the tests are over.
pub fn serve(argv: *const *const c_char, call: fn(&mut Asked)) {
    crate::ignore_closed_pipes();
    let (mut incoming, mut outgoing) = (crate::pipe(argv, 1), crate::pipe(argv, 2));
    while let Some(message) = read_message(&mut incoming) {
        let mut asked = Asked { from: Reader::new(message), out: Writer::default() };
        let done = catch_unwind(AssertUnwindSafe(|| call(&mut asked)));
        let mut said = Writer::default();
        done.map_err(|panic| text_of(&*panic)).put(&mut said);
        said.bytes.extend(asked.out.bytes);
        if !write_message(&mut outgoing, &said.bytes) { return; }
    }
}
