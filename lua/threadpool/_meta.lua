---@meta threadpool

--- Types for the Lua language server, and the reference for people; a program requires "threadpool".
---
--- Pools of OS threads. Each worker thread owns an isolated Lua state; functions, arguments and results travel as
--- copies. What cannot travel raises where it is sent: `transfer: upvalue 'self' -> .conn: userdata cannot be sent`.
---
--- All times are seconds; fractions are allowed. Wrong arguments raise a string with the caller's position. What user
--- code raised arrives as it was raised. What this module itself refuses is a `threadpool.error`.
---@class threadpool
---@field core { ECTP_COMPLETE_CALLBACK: integer, ECTP_COMPLETE_CALLBACK_SCHED: integer } as Momentum has them
---@field ECTP_COMPLETE_CALLBACK integer the completion runs on the worker, after the closure, and shares its upvalues
---@field ECTP_COMPLETE_CALLBACK_SCHED integer the completion runs in the submitting state, when that polls
---@field _OSTLS table one table per state, for its life; a global in workers
---@field _TLS table one table per coroutine, empty at first, that no other task sees; a global in workers
local threadpool = {}

--- An error of the module. `tostring(err)` is `code: text`; `..` works on it; it can be sent.
---@class threadpool.error
---@field code threadpool.code stable, for programs
---@field text string for people
---@operator concat(any): string

---@alias threadpool.code
---| "timeout"     the time given has passed; the task goes on
---| "rejected"    the pool is shut down, its name is taken, or no thread could be started
---| "nopool"      no pool has that name or id
---| "transfer"    a value cannot be sent, or could not be rebuilt on the other side
---| "memory"      there was no memory for the packet, or in the worker's state
---| "closed"      this Lua state is closing
---| "lost"        the task has no outcome
---| "unsupported" the operating system refused what this needs

--- A pool, its name (in any case) or its id.
---@alias threadpool.which threadpool.pool | string | integer

--- Runs `fn()` in a pool.
---
--- Without `completion`, or with `false`, waits and returns what `pcall` would: `true, ...` or `false, err`. An unknown
--- pool, or one that is shut down, is `false, err`, too. The caller's `_TLS` goes along as a copy, and the changes that
--- the task makes to it come back.
---
--- With `true` returns nothing, at once. With a function returns nothing, at once; `completion(true, ...)` or
--- `completion(false, err)` is called once, after a failure too. An error that nobody waits for goes to `on_error`.
---
--- Raises what cannot be sent (`transfer`); with a third argument also `nopool` and `rejected`.
---@param pool threadpool.which
---@param fn fun(): ...
---@param completion? boolean | fun(ok: boolean, ...)
---@param mode? integer `ECTP_COMPLETE_CALLBACK_SCHED`; everything else means `ECTP_COMPLETE_CALLBACK`
---@return boolean ok
---@return any ... results, or the error
function threadpool.runInPool(pool, fn, completion, mode) end

--- Waits. In a task other tasks of the worker run meanwhile, where the task may yield; elsewhere the thread sleeps.
---@param seconds number
function threadpool.sleep(seconds) end

--- A pool of `n` workers, started when tasks need them. Without a name it shuts down in order once it is collected;
--- with one, never by itself.
---
--- Raises `rejected` if a pool has that name, in any case.
---@param n integer from 1 to 10000
---@param options? { name?: string } the threads are named `<name>-worker-<number>`
---@return threadpool.pool
function threadpool.fixed(n, options) end

--- Finds a pool. "CPU" (id 0: one worker a processor, at least 2) and "IO" (id 1: up to 50 workers, each leaves after a
--- minute without a task) always exist.
---@param name_or_id string | integer
---@return threadpool.pool | nil pool
---@return threadpool.error? err `nopool`
function threadpool.pool(name_or_id) end

--- All pools, by id. "CPU" and "IO" only once they were used.
---@return threadpool.pool[]
function threadpool.pools() end

--- The processors that this process may use.
---@return integer
function threadpool.processor_count() end

--- A plain copy of this coroutine's `_TLS`, for `next` and `pairs` on every Lua.
---@return table
function threadpool.tls() end

--- A descriptor that is readable exactly while `poll` has something to do. Never read from it or close it.
---
--- Raises `unsupported` if the system gives none.
---@return integer
function threadpool.fd() end

--- Runs the completions that wait and reports errors that nobody awaits. Never blocks.
---@param max? integer at most so many, from 1; the rest keeps the descriptor readable
---@return integer count how many outcomes were delivered
function threadpool.poll(max) end

--- The same, but blocks until there is something to do. Without a timeout and with nothing pending returns at once.
---@param timeout? number seconds
---@return integer count 0 when the time has passed
function threadpool.wait(timeout) end

--- Tasks of this state whose outcome has not come back: those without a completion count, too, until a poll.
---@return integer
function threadpool.pending() end

--- Sets who hears of errors that nobody waits for; without a handler they go to stderr, with their traceback.
---@param fn? fun(err: any, traceback: string?, task: string) `task` is where its function was defined: `app.lua:12`
---@return function? before the handler until now
function threadpool.on_error(fn) end

---@class threadpool.pool
---@field name string
---@field id integer
local pool = {}

--- Runs `fn(...)` and waits: `true, ...` or `false, err`. As `runInPool`, with arguments.
---@param fn fun(...): ...
---@param ... any
---@return boolean ok
---@return any ... results, or the error
function pool:run(fn, ...) end

--- Runs `fn(...)` some time; its results are dropped, its error goes to `on_error`.
---
--- Raises `transfer` and `rejected`.
---@param fn fun(...)
---@param ... any
---@return true
function pool:post(fn, ...) end

--- Runs `fn(...)` some time.
---
--- Raises `transfer` and `rejected`.
---@param fn fun(...): ...
---@param ... any
---@return threadpool.future
function pool:submit(fn, ...) end

--- Takes no new task from now on; what is queued and running goes on to its end.
---@return true
function pool:shutdown() end

--- Waits until a pool that was shut down has ended its tasks and its threads.
---@param timeout? number seconds
---@return boolean ended `false` when the time has passed
function pool:wait_for_termination(timeout) end

--- Whether it takes tasks.
---@return boolean
function pool:is_running() end

--- Numbers as they are now.
---@return threadpool.stats
function pool:stats() end

---@class threadpool.stats
---@field min_length integer workers that it keeps, however idle
---@field max_length integer the most workers
---@field length integer workers that exist; while tasks block their threads, that can be more than `max_length`
---@field queue_length integer tasks that wait for a worker
---@field completed_task_count integer tasks that have ended, well or not

---@class threadpool.future
local future = {}

--- Waits for the outcome, which stays with the future: `true, ...` or `false, err`; or `nil, err` (`timeout`) when the
--- time has passed.
---@param timeout? number seconds
---@return boolean | nil ok
---@return any ... results, or the error
function future:await(timeout) end

--- Waits and returns the results; raises the error of the task, as it was raised there, or `timeout`.
---@param timeout? number seconds
---@return any ...
function future:get(timeout) end

--- Where it stands.
---@return "pending" | "fulfilled" | "rejected"
function future:state() end

--- Where the task failed; nil while it is pending, and if it went well.
---@return string?
function future:traceback() end

return threadpool
