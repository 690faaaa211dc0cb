//! Values on the pipes between a Rust program and the tests of its problem, for both halves.
//!
//! A message is its length (4 bytes, little endian) and its values; a value is a tag and its bytes:
//!     i f d c b   an integer (16 bytes), f32, f64, char, bool
//!     s           a string: its length and its bytes
//!     [           a sequence, set or map: how many values, then these; a map's are pairs
//!     (           a tuple: how many values, then these
//!     e           an enum's value: the variant's name, how many values, then these
//!     a           a dyn Any: the code of its type, then the value
//! Types are known on both sides, so reading never does more than make a value of the type that is wanted. An integer
//! becomes any type of integer that holds it, a float either type of float. What is read behind a reference lives as long
//! as the process.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::CStr;
use std::fs::File;
use std::hash::Hash;
use std::io::{Read, Write};
use std::os::raw::c_char;
use std::os::unix::io::FromRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

pub mod program;
pub mod tests;

const MESSAGE_BYTES: usize = 8 << 20;
const ANY_DEPTH: usize = 64;

/// Why a value cannot be read.
#[derive(Debug)]
pub enum Wrong {
    /// The message breaks the protocol.
    Broken(String),
    /// The value is no value of the wanted type.
    Unfit(String),
}

fn broken<T>(what: &str) -> Result<T, Wrong> { Err(Wrong::Broken(what.to_string())) }

extern "C" { fn signal(number: i32, action: usize) -> usize; }

/// Rust's own start does so before main, and the halves have a main without it.
fn ignore_closed_pipes() { unsafe { signal(13, 1); } }

/// The number that is a word of the command.
unsafe fn number(argv: *const *const c_char, place: usize) -> i32 {
    CStr::from_ptr(*argv.add(place)).to_str().unwrap().parse().unwrap()
}

/// The pipe whose number is a word of the command.
fn pipe(argv: *const *const c_char, place: usize) -> File { unsafe { File::from_raw_fd(number(argv, place)) } }

/// The next message; None at the end of the pipe. One that is too long is taken for an empty one, which holds no value.
fn read_message(pipe: &mut File) -> Option<Vec<u8>> {
    let mut count = [0; 4];
    pipe.read_exact(&mut count).ok()?;
    let count = u32::from_le_bytes(count) as usize;
    let mut message = Vec::new();  // grows with what comes, not with what was announced
    if count > MESSAGE_BYTES { return Some(message); }
    if pipe.take(count as u64).read_to_end(&mut message).ok()? == count { Some(message) } else { None }
}

fn write_message(pipe: &mut File, message: &[u8]) -> bool {
    assert!(message.len() <= MESSAGE_BYTES, "values that are too long to be carried");
    pipe.write_all(&(message.len() as u32).to_le_bytes()).and_then(|_| pipe.write_all(message)).is_ok()
}

#[derive(Default)]
pub struct Writer { bytes: Vec<u8> }

impl Writer {
    fn raw(&mut self, tag: u8, data: &[u8]) {
        self.bytes.push(tag);
        self.bytes.extend_from_slice(data);
    }
    fn head(&mut self, tag: u8, count: usize) { self.raw(tag, &(count as u32).to_le_bytes()); }
    /// The beginning of an enum's value.
    pub fn variant(&mut self, name: &str, count: usize) {
        self.bytes.push(b'e');
        name.put(self);
        self.head(b'(', count);
    }
}

pub struct Reader { message: Vec<u8>, at: usize, depth: usize }

impl Reader {
    fn new(message: Vec<u8>) -> Reader { Reader { message, at: 0, depth: 0 } }

    fn take(&mut self, count: usize) -> Result<&[u8], Wrong> {
        if count > self.message.len() - self.at { return broken("a message that ends within a value"); }
        self.at += count;
        Ok(&self.message[self.at - count..self.at])
    }
    fn tag(&mut self) -> Result<u8, Wrong> { Ok(self.take(1)?[0]) }
    /// How many values or bytes follow; never more than bytes are left.
    fn head(&mut self, tag: u8) -> Result<usize, Wrong> {
        if self.tag()? != tag { return broken("a value of another type than the declared one"); }
        let mut count = [0; 4];
        count.copy_from_slice(self.take(4)?);
        let count = u32::from_le_bytes(count) as usize;
        if count > self.message.len() - self.at { return broken("a value that is longer than its message"); }
        Ok(count)
    }
    fn tuple(&mut self, wanted: usize) -> Result<(), Wrong> {
        if self.head(b'(')? == wanted { Ok(()) } else { broken("a tuple of another length than the declared one") }
    }
    /// The name of an enum's variant and how many values it has.
    pub fn variant(&mut self) -> Result<(String, usize), Wrong> {
        if self.tag()? != b'e' { return broken("a value that is no enum's where one is declared"); }
        Ok((String::get(self)?, self.head(b'(')?))
    }
}

/// What can be sent.
pub trait Put { fn put(&self, out: &mut Writer); }
/// What can be received.
pub trait Get: Sized { fn get(from: &mut Reader) -> Result<Self, Wrong>; }

macro_rules! integers { ($($kind:ty)*) => { $(
    impl Put for $kind { fn put(&self, out: &mut Writer) { out.raw(b'i', &(*self as i128).to_le_bytes()); } }
    impl Get for $kind { fn get(from: &mut Reader) -> Result<Self, Wrong> {
        if from.tag()? != b'i' { return broken("a value that is no integer where one is declared"); }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(from.take(16)?);
        let value = i128::from_le_bytes(bytes);
        if value == value as $kind as i128 { return Ok(value as $kind); }
        Err(Wrong::Unfit(format!("{} as {}", value, stringify!($kind))))
    } }
)* } }
integers!(i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize);

fn get_float(from: &mut Reader) -> Result<f64, Wrong> {
    match from.tag()? {
        b'f' => { let mut bytes = [0; 4]; bytes.copy_from_slice(from.take(4)?); Ok(f32::from_le_bytes(bytes) as f64) }
        b'd' => { let mut bytes = [0; 8]; bytes.copy_from_slice(from.take(8)?); Ok(f64::from_le_bytes(bytes)) }
        _ => broken("a value that is no float where one is declared"),
    }
}
impl Put for f32 { fn put(&self, out: &mut Writer) { out.raw(b'f', &self.to_le_bytes()); } }
impl Put for f64 { fn put(&self, out: &mut Writer) { out.raw(b'd', &self.to_le_bytes()); } }
impl Get for f32 { fn get(from: &mut Reader) -> Result<Self, Wrong> { Ok(get_float(from)? as f32) } }
impl Get for f64 { fn get(from: &mut Reader) -> Result<Self, Wrong> { get_float(from) } }

impl Put for bool { fn put(&self, out: &mut Writer) { out.raw(b'b', &[*self as u8]); } }
impl Get for bool { fn get(from: &mut Reader) -> Result<Self, Wrong> {
    if from.tag()? != b'b' { return broken("a value that is no bool where one is declared"); }
    Ok(from.tag()? == 1)
} }

impl Put for char { fn put(&self, out: &mut Writer) { out.raw(b'c', &(*self as u32).to_le_bytes()); } }
impl Get for char { fn get(from: &mut Reader) -> Result<Self, Wrong> {
    if from.tag()? != b'c' { return broken("a value that is no char where one is declared"); }
    let mut bytes = [0; 4];
    bytes.copy_from_slice(from.take(4)?);
    std::char::from_u32(u32::from_le_bytes(bytes)).map_or_else(|| broken("a char that is none"), Ok)
} }

impl Put for str { fn put(&self, out: &mut Writer) {
    out.head(b's', self.len());
    out.bytes.extend_from_slice(self.as_bytes());
} }
impl Put for String { fn put(&self, out: &mut Writer) { self.as_str().put(out); } }
impl Get for String { fn get(from: &mut Reader) -> Result<Self, Wrong> {
    let count = from.head(b's')?;
    String::from_utf8(from.take(count)?.to_vec()).or_else(|_| broken("a string that is no UTF-8"))
} }

// References and boxes are carried as what they hold.
impl<T: Put + ?Sized> Put for &T { fn put(&self, out: &mut Writer) { (**self).put(out); } }
impl<T: Put + ?Sized> Put for &mut T { fn put(&self, out: &mut Writer) { (**self).put(out); } }
impl<T: Put + ?Sized> Put for Box<T> { fn put(&self, out: &mut Writer) { (**self).put(out); } }
impl<T: Get> Get for Box<T> { fn get(from: &mut Reader) -> Result<Self, Wrong> { Ok(Box::new(T::get(from)?)) } }
impl Get for &'static str { fn get(from: &mut Reader) -> Result<Self, Wrong> {
    Ok(Box::leak(String::get(from)?.into_boxed_str()))
} }
impl<T: Get> Get for &'static T { fn get(from: &mut Reader) -> Result<Self, Wrong> { Ok(Box::leak(Box::new(T::get(from)?))) } }
impl<T: Get> Get for &'static mut T { fn get(from: &mut Reader) -> Result<Self, Wrong> { Ok(Box::leak(Box::new(T::get(from)?))) } }
impl<T: Get> Get for &'static [T] { fn get(from: &mut Reader) -> Result<Self, Wrong> { Ok(Vec::<T>::get(from)?.leak()) } }
impl<T: Get> Get for &'static mut [T] { fn get(from: &mut Reader) -> Result<Self, Wrong> { Ok(Vec::<T>::get(from)?.leak()) } }

fn put_all<T: Put, I: Iterator<Item = T>>(out: &mut Writer, count: usize, values: I) {
    out.head(b'[', count);
    values.for_each(|value| value.put(out));
}
fn get_all<T: Get, C: Extend<T> + Default>(from: &mut Reader) -> Result<C, Wrong> {
    let mut values = C::default();
    for _ in 0..from.head(b'[')? { values.extend(Some(T::get(from)?)); }
    Ok(values)
}

impl<T: Put> Put for [T] { fn put(&self, out: &mut Writer) { put_all(out, self.len(), self.iter()); } }
impl<T: Put, const N: usize> Put for [T; N] { fn put(&self, out: &mut Writer) { put_all(out, N, self.iter()); } }
impl<T: Get, const N: usize> Get for [T; N] { fn get(from: &mut Reader) -> Result<Self, Wrong> {
    use std::convert::TryFrom;
    <[T; N]>::try_from(Vec::<T>::get(from)?).or_else(|_| broken("an array of another length than the declared one"))
} }

macro_rules! containers { ($($kind:ident($($bound:ident)*))*) => { $(
    impl<T: Put> Put for $kind<T> { fn put(&self, out: &mut Writer) { put_all(out, self.len(), self.iter()); } }
    impl<T: Get $(+ $bound)*> Get for $kind<T> { fn get(from: &mut Reader) -> Result<Self, Wrong> { get_all(from) } }
)* } }
containers!(Vec() VecDeque() BTreeSet(Ord) HashSet(Eq Hash));

macro_rules! maps { ($($kind:ident($($bound:ident)*))*) => { $(
    impl<K: Put, V: Put> Put for $kind<K, V> { fn put(&self, out: &mut Writer) { put_all(out, self.len(), self.iter()); } }
    impl<K: Get $(+ $bound)*, V: Get> Get for $kind<K, V> { fn get(from: &mut Reader) -> Result<Self, Wrong> {
        Ok(Vec::<(K, V)>::get(from)?.into_iter().collect())
    } }
)* } }
maps!(HashMap(Eq Hash) BTreeMap(Ord));

macro_rules! tuples { ($($count:literal($($name:ident)*))*) => { $(
    impl<$($name: Put),*> Put for ($($name,)*) { #[allow(non_snake_case)] fn put(&self, out: &mut Writer) {
        let ($($name,)*) = self;
        out.head(b'(', $count);
        $($name.put(out);)*
    } }
    impl<$($name: Get),*> Get for ($($name,)*) { fn get(from: &mut Reader) -> Result<Self, Wrong> {
        from.tuple($count)?;
        Ok(($($name::get(from)?,)*))
    } }
)* } }
tuples!(0() 1(A) 2(A B) 3(A B C) 4(A B C D) 5(A B C D E) 6(A B C D E F));

impl<T: Put> Put for Option<T> { fn put(&self, out: &mut Writer) { match self {
    Some(value) => { out.variant("Some", 1); value.put(out); }
    None => out.variant("None", 0),
} } }
impl<T: Get> Get for Option<T> { fn get(from: &mut Reader) -> Result<Self, Wrong> { match from.variant()? {
    (name, 1) if name == "Some" => Ok(Some(T::get(from)?)),
    (name, 0) if name == "None" => Ok(None),
    _ => broken("a value that is no Option where one is declared"),
} } }
impl<T: Put, E: Put> Put for Result<T, E> { fn put(&self, out: &mut Writer) { match self {
    Ok(value) => { out.variant("Ok", 1); value.put(out); }
    Err(value) => { out.variant("Err", 1); value.put(out); }
} } }
impl<T: Get, E: Get> Get for Result<T, E> { fn get(from: &mut Reader) -> Result<Self, Wrong> { match from.variant()? {
    (name, 1) if name == "Ok" => Ok(Ok(T::get(from)?)),
    (name, 1) if name == "Err" => Ok(Err(E::get(from)?)),
    _ => broken("a value that is no Result where one is declared"),
} } }

// What a dyn Any may hold; its code is its place.
macro_rules! anything { ($($code:literal $kind:ty),*) => {
    impl Put for dyn Any { fn put(&self, out: &mut Writer) {
        $(if let Some(value) = self.downcast_ref::<$kind>() { out.raw(b'a', &[$code]); return value.put(out); })*
        UNCARRIED.store(true, Ordering::Relaxed);
        panic!("a dyn Any holds a value of another type than those of wire.rs");
    } }
    fn get_any(from: &mut Reader) -> Result<Box<dyn Any>, Wrong> { match from.tag()? {
        $($code => Ok(Box::new(<$kind as Get>::get(from)?)),)*
        _ => broken("a dyn Any of an unknown type"),
    } }
} }
anything!(0 bool, 1 char, 2 i8, 3 i16, 4 i32, 5 i64, 6 i128, 7 isize, 8 u8, 9 u16, 10 u32, 11 u64, 12 u128, 13 usize, 14 f32,
          15 f64, 16 String, 17 &'static str, 18 Vec<Box<dyn Any>>, 19 Vec<i32>, 20 Vec<f64>, 21 Vec<String>,
          22 Vec<&'static str>, 23 (), 24 HashMap<String, String>, 25 HashMap<&'static str, &'static str>);
/// Whether a value could not be sent; a panic's text does not tell, as it may be one that the program returned.
static UNCARRIED: AtomicBool = AtomicBool::new(false);

impl Get for Box<dyn Any> { fn get(from: &mut Reader) -> Result<Self, Wrong> {
    if from.tag()? != b'a' { return broken("a value that is no dyn Any where one is declared"); }
    from.depth += 1;
    if from.depth > ANY_DEPTH { return broken("values that are nested too deep"); }
    let value = get_any(from);
    from.depth -= 1;
    value
} }
impl Get for &'static dyn Any { fn get(from: &mut Reader) -> Result<Self, Wrong> { Ok(Box::leak(Box::<dyn Any>::get(from)?)) } }
