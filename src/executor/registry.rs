//! All pools of the process: by name, by id, and at exit.
//!
//! Names are compared without regard to case. A named pool lives until it is shut down; an unnamed one is
//! kept by its handles (the registry only remembers it weakly). "CPU" and "IO" appear when first used.

use std::sync::Weak;
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use super::pool::{Options, Pool};
use super::task::Factory;
use crate::error::{Code, Error, Result};
use crate::sync::{Arc, Mutex, lock};
use crate::sys;

/// Bytes of stack of a worker's thread: what a main thread usually has, since C modules expect it. Only
/// what is touched takes memory.
const STACK_SIZE: usize = 8 << 20;
const IDLE: Duration = Duration::from_secs(60);

/// The pools of the references that every program finds; their place here is their id.
const PREDEFINED: [&str; 2] = ["CPU", "IO"];

struct Registry {
    /// The fork generation in which it was made: see [`registry`].
    generation: u64,
    factory: Arc<dyn Factory>,
    pools: Mutex<Pools>,
}

struct Pools {
    /// Host states that are open. While there is none, no pool is made: nobody would end it.
    hosts: usize,
    next_id: u32,
    named: Vec<Arc<Pool>>,
    unnamed: Vec<Weak<Pool>>,
}

/// Filled by the first use of a pool; a second factory would be the same one. After a fork the child has
/// one of its own in the next place, and forgets the parent's: that one's lock may be held by a thread that
/// the child does not have. A process that is itself a fork of a fork of … runs out of places only when it
/// used pools in each of them.
static REGISTRIES: [OnceCell<Registry>; 64] = [const { OnceCell::new() }; 64];

/// The registry of this process, made at first use.
fn registry(factory: impl FnOnce() -> Arc<dyn Factory>) -> Result<&'static Registry> {
    let generation = sys::generation();
    let make = || Registry {
        generation,
        factory: factory(),
        pools: Mutex::new(Pools {
            hosts: 0,
            next_id: PREDEFINED.len() as u32,
            named: Vec::new(),
            unnamed: Vec::new(),
        }),
    };
    if let Some(registry) = current() {
        return Ok(registry);
    }
    // Filled places belong to processes that this one descends from, or, the last, to another thread of this
    // one that was faster.
    let place =
        REGISTRIES.iter().find(|place| place.get().is_none_or(|known| known.generation == generation));
    place
        .map(|place| place.get_or_init(make))
        .ok_or_else(|| Error::new(Code::Unsupported, "too many nested forks"))
}

/// The registry of this process, if a pool was used in it.
fn current() -> Option<&'static Registry> {
    let generation = sys::generation();
    REGISTRIES.iter().map_while(OnceCell::get).find(|known| known.generation == generation)
}

impl Default for Options {
    /// An unnamed pool of one worker.
    fn default() -> Options {
        Options { name: String::new(), min: 1, max: 1, idle: IDLE, stack_size: STACK_SIZE }
    }
}

fn predefined(id: u32) -> Options {
    let name = PREDEFINED[id as usize].to_string();
    if id == 0 {
        let workers = sys::processor_count().max(2);
        Options { name, min: workers, max: workers, ..Options::default() }
    } else {
        Options { name, min: 0, max: 50, ..Options::default() }
    }
}

impl Pools {
    fn find(&self, test: impl Fn(&Pool) -> bool) -> Option<Arc<Pool>> {
        let alive = self.unnamed.iter().filter_map(Weak::upgrade);
        self.named.iter().cloned().chain(alive).find(|pool| test(pool) && !pool.is_terminated())
    }

    /// The pool predefined under this id, made if this is its first use.
    fn predefined(&mut self, id: u32, factory: &Arc<dyn Factory>) -> Result<Arc<Pool>> {
        if let Some(pool) = self.named.iter().find(|pool| pool.id == id && pool.is_running()) {
            return Ok(pool.clone());
        }
        self.open()?;
        let pool = Pool::new(id, predefined(id), factory.clone());
        self.named.push(pool.clone());
        Ok(pool)
    }

    /// Fails while no pool may be made.
    fn open(&self) -> Result<()> {
        if self.hosts == 0 { Err(Error::new(Code::Closed, "the program is ending")) } else { Ok(()) }
    }
}

/// Makes a pool. An empty name leaves it unnamed: its threads are then called after its id.
///
/// Fails when a pool of that name exists.
pub fn create(mut options: Options, factory: impl FnOnce() -> Arc<dyn Factory>) -> Result<Arc<Pool>> {
    let registry = registry(factory)?;
    let mut pools = lock(&registry.pools);
    pools.open()?;
    pools.named.retain(|pool| !pool.is_terminated());
    pools.unnamed.retain(|pool| pool.strong_count() > 0);
    let taken = |name: &str| {
        PREDEFINED.iter().any(|p| p.eq_ignore_ascii_case(name))
            || pools.named.iter().any(|pool| pool.options.name.eq_ignore_ascii_case(name))
    };
    if taken(&options.name) {
        return Err(Error::new(Code::Rejected, format!("a pool named '{}' exists", options.name)));
    }
    let id = pools.next_id;
    pools.next_id += 1;
    let named = !options.name.is_empty();
    if !named {
        options.name = format!("pool-{id}");
    }
    let pool = Pool::new(id, options, registry.factory.clone());
    if named {
        pools.named.push(pool.clone());
    } else {
        pools.unnamed.push(Arc::downgrade(&pool));
    }
    Ok(pool)
}

/// In the child of a fork, what takes the place of a pool that the parent made: the same name, id and
/// options, with workers of its own.
pub fn reborn(pool: &Pool, factory: impl FnOnce() -> Arc<dyn Factory>) -> Result<Arc<Pool>> {
    let registry = registry(factory)?;
    let mut pools = lock(&registry.pools);
    if (pool.id as usize) < PREDEFINED.len() {
        return pools.predefined(pool.id, &registry.factory);
    }
    if let Some(known) = pools.find(|known| known.id == pool.id) {
        return Ok(known);
    }
    pools.next_id = pools.next_id.max(pool.id + 1);
    let again = Pool::new(pool.id, pool.options.clone(), registry.factory.clone());
    // Kept like a named one: its handles are counted per process, and were counted in the parent.
    pools.named.push(again.clone());
    Ok(again)
}

fn no_pool(what: impl std::fmt::Display) -> Error {
    Error::new(Code::NoPool, format!("no pool {what}"))
}

/// The pool of that name, whatever the case of its letters.
pub fn by_name(name: &str, factory: impl FnOnce() -> Arc<dyn Factory>) -> Result<Arc<Pool>> {
    let registry = registry(factory)?;
    let mut pools = lock(&registry.pools);
    if let Some(id) = PREDEFINED.iter().position(|p| p.eq_ignore_ascii_case(name)) {
        return pools.predefined(id as u32, &registry.factory);
    }
    pools
        .find(|pool| pool.options.name.eq_ignore_ascii_case(name))
        .ok_or_else(|| no_pool(format!("is named '{name}'")))
}

/// The pool with that id.
pub fn by_id(id: u32, factory: impl FnOnce() -> Arc<dyn Factory>) -> Result<Arc<Pool>> {
    let registry = registry(factory)?;
    let mut pools = lock(&registry.pools);
    if (id as usize) < PREDEFINED.len() {
        return pools.predefined(id, &registry.factory);
    }
    pools.find(|pool| pool.id == id).ok_or_else(|| no_pool(format!("has the id {id}")))
}

/// All pools that exist, in the order of their ids.
pub fn list() -> Vec<Arc<Pool>> {
    let Some(registry) = current() else { return Vec::new() };
    let pools = lock(&registry.pools);
    let alive = pools.unnamed.iter().filter_map(Weak::upgrade);
    let mut all: Vec<_> =
        pools.named.iter().cloned().chain(alive).filter(|pool| !pool.is_terminated()).collect();
    drop(pools);
    all.sort_by_key(|pool| pool.id);
    all
}

/// A handle of a pool has gone. With its last one an unnamed pool shuts down in order.
pub fn retire(pool: &Arc<Pool>) {
    let named = current()
        .is_some_and(|registry| lock(&registry.pools).named.iter().any(|other| Arc::ptr_eq(other, pool)));
    if pool.drop_handle() && !named {
        pool.shutdown();
    }
}

/// A host's state opens the module.
pub fn open_host(factory: impl FnOnce() -> Arc<dyn Factory>) -> Result<()> {
    lock(&registry(factory)?.pools).hosts += 1;
    Ok(())
}

/// A host's state closes. The last one shuts down every pool and waits until all have ended; a state that
/// opens meanwhile finds new ones.
///
/// Gives up when no task has ended for `patience`, and returns what still ran then: thread names with the
/// code ids of their tasks. Those threads are left alone.
pub fn close_host(patience: Duration) -> Vec<(String, u64)> {
    let Some(registry) = current() else { return Vec::new() };
    let all: Vec<Arc<Pool>> = {
        let mut pools = lock(&registry.pools);
        pools.hosts = pools.hosts.saturating_sub(1);
        if pools.hosts > 0 {
            return Vec::new();
        }
        let unnamed: Vec<_> = pools.unnamed.drain(..).filter_map(|pool| pool.upgrade()).collect();
        pools.named.drain(..).chain(unnamed).collect()
    };
    all.iter().for_each(|pool| pool.shutdown());
    let ended = || all.iter().map(|pool| pool.ended()).sum::<u64>();
    let mut progress = (ended(), Instant::now());
    for pool in &all {
        // Looks up from its wait now and then, to see whether any task ends anywhere.
        while !pool.wait_for_termination(Some(Instant::now() + patience / 20)) {
            let now = ended();
            if now != progress.0 {
                progress = (now, Instant::now());
            } else if progress.1.elapsed() >= patience {
                return all.iter().flat_map(|pool| pool.running()).collect();
            }
        }
    }
    Vec::new()
}
