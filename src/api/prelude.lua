-- The Lua half of the module: what can suspend its caller, and what is shorter in Lua.
--
-- Run once in every state that opens the module, with the table of C functions and whether the state is a
-- worker's. Fills core.module, which is what `require "threadpool"` returns, and leaves in core what the
-- runtime calls.
--
-- A C function that would wait either blocks and returns what came, or says that the caller must yield
-- first: C submits and parks, Lua yields.

local core, is_worker = ...

local type, next, pairs, setmetatable, tostring, select = type, next, pairs, setmetatable, tostring, select
local error, pcall, yield, concat = error, pcall, coroutine.yield, table.concat
local stderr, stdout = io and io.stderr, io and io.stdout

local threadpool = {}
core.module = threadpool

-- Errors of the module itself: `code` is stable, `text` is for people.

local error_metatable = {
  __name = "threadpool.error",
  __tostring = function(err)
    return tostring(err.code) .. ": " .. tostring(err.text)
  end,
  __concat = function(a, b)
    return tostring(a) .. tostring(b)
  end,
}
core.error = error_metatable

-- Thread-local storage. `_OSTLS` is one table per state, for its life; `_TLS` stands for one table per
-- coroutine, made when first written to.

local running = core.running
local tls = setmetatable({}, { __mode = "k" })
core.tls = tls

local function tls_of_this_coroutine()
  local co = running()
  local own = tls[co]
  if not own then
    core.tls_used()
    own = {}
    tls[co] = own
  end
  return own
end

threadpool._OSTLS = {}
threadpool._TLS = setmetatable({}, {
  __name = "threadpool._TLS",
  __index = function(_, key)
    local own = tls[running()]
    return own and own[key]
  end,
  __newindex = function(_, key, value)
    tls_of_this_coroutine()[key] = value
  end,
  __pairs = function()
    return next, tls_of_this_coroutine()
  end,
})

function threadpool.tls()
  local copy = {}
  for key, value in next, tls[running()] or copy do
    copy[key] = value
  end
  return copy
end

-- What of a coroutine's `_TLS` can travel, as a copy; nil if it has none.
function core.sendable_tls(co)
  local own = tls[co]
  if not own then
    return nil
  end
  local copy = {}
  for key, value in next, own do
    if core.sendable(key) and core.sendable(value) then
      copy[key] = value
    end
  end
  return copy
end

-- Takes the changes that a task made to the copy back into this coroutine's own; what could not travel
-- has stayed.
function core.merge(back)
  local sent = core.sendable_tls(running())
  local own = tls_of_this_coroutine()
  for key in next, sent or back do
    if back[key] == nil then
      own[key] = nil
    end
  end
  for key, value in next, back do
    own[key] = value
  end
end

-- Errors that nobody waits for.

local handler

local function last_report(err, traceback, task)
  if stderr then
    local text = ("threadpool: error in task %s: %s\n"):format(tostring(task), tostring(err))
    stderr:write(text, traceback and (tostring(traceback) .. "\n") or "")
  end
end
core.last_report = last_report

function core.report(err, traceback, task)
  if not handler then
    return last_report(err, traceback, task)
  end
  local ok, why = pcall(handler, err, traceback, task)
  if not ok then
    last_report(err, traceback, task)
    last_report(why, nil, "on_error")
  end
end

function threadpool.on_error(fn)
  if fn ~= nil and type(fn) ~= "function" then
    error("on_error: fn must be a function or nil, not " .. type(fn), 2)
  end
  local before = handler
  handler = fn
  return before
end

-- Submitting.

core.callbacks = {}
local run, take = core.run, core.take

-- The outcome of a synchronous call; the traceback that follows an error is not part of it.
local function outcome_of(ok, ...)
  if ok then
    return true, ...
  end
  return false, (...)
end

-- The end of a synchronous call: its outcome, or a ticket for which the caller must yield first.
local function settle(first, ...)
  if first == true then
    return true, ...
  elseif first == false then
    return false, (...)
  end
  yield()
  return outcome_of(take(first))
end

local modes = { ECTP_COMPLETE_CALLBACK = 0, ECTP_COMPLETE_CALLBACK_SCHED = 1 }
threadpool.core = {}
for name, value in pairs(modes) do
  threadpool[name] = value
  threadpool.core[name] = value
end

local detach = core.detach

function threadpool.runInPool(pool, fn, completion, mode)
  if completion == nil or completion == false then
    return settle(run(pool, fn))
  elseif completion == true then
    detach(pool, fn)
  else
    core.complete(pool, fn, completion, mode == modes.ECTP_COMPLETE_CALLBACK_SCHED)
  end
end

function threadpool.sleep(seconds)
  if core.sleep(seconds) then
    yield()
  end
end

-- Pools.

local pool_methods = {}

function pool_methods:run(fn, ...)
  return settle(run(self, fn, ...))
end

pool_methods.post = core.post
pool_methods.submit = core.submit

function pool_methods:shutdown()
  return core.shutdown(self)
end

function pool_methods:wait_for_termination(timeout)
  return core.wait_for_termination(self, timeout)
end

function pool_methods:stats()
  return core.stats(self)
end

function pool_methods:is_running()
  return core.pool_state(self) == "running"
end

function pool_methods:is_shutting_down()
  return core.pool_state(self) == "shutting down"
end

function pool_methods:is_shutdown()
  return core.pool_state(self) == "shut down"
end

core.pool_objects = setmetatable({}, { __mode = "v" })
core.pool_metatable = {
  __name = "threadpool.pool",
  __index = core.pool_index(pool_methods),
  __tostring = function(self)
    return ("pool '%s' (%d)"):format(self.name, self.id)
  end,
  __gc = core.retire,
}

function threadpool.fixed(n, options)
  if options ~= nil and type(options) ~= "table" then
    error("fixed: options must be a table or nil, not " .. type(options), 2)
  end
  for key in next, options or {} do
    if key ~= "name" then
      error("fixed: unknown option '" .. tostring(key) .. "' (allowed: name)", 2)
    end
  end
  local pool = core.fixed(n, options and options.name)
  return pool -- no tail call: errors are raised at the caller of this function
end

function threadpool.pool(name_or_id)
  local pool, err = core.pool(name_or_id)
  return pool, err
end

threadpool.pools = core.pools
threadpool.processor_count = core.processor_count

-- Futures.

core.futures = setmetatable({}, { __mode = "v" })
core.gc_metatable = { __gc = core.gc_tick }
local future_methods = {}
local await, parked = core.await, 0

local function settle_future(self, first, ...)
  if first == parked then
    yield()
    return await(self, 0)
  end
  return first, ...
end

function future_methods:await(timeout)
  return settle_future(self, await(self, timeout))
end

local function got(ok, ...)
  if ok then
    return ...
  end
  error((...), 0)
end

function future_methods:get(timeout)
  return got(settle_future(self, await(self, timeout)))
end

function future_methods:state()
  return core.future_state(self)
end

function future_methods:traceback()
  return core.future_traceback(self)
end

core.future_metatable = {
  __name = "threadpool.future",
  __index = future_methods,
  __tostring = function(self)
    return "future (" .. self:state() .. ")"
  end,
}

-- The host's event loop.

threadpool.fd = core.fd
threadpool.poll = core.poll
threadpool.wait = core.wait
threadpool.pending = core.pending

-- Globals of workers, and of no other state.

if is_worker then
  local globals = _G
  globals._TLS, globals._OSTLS = threadpool._TLS, threadpool._OSTLS

  -- One write for the whole line, so that lines of several workers do not mix.
  function globals.print(...)
    local line = { ... }
    local n = select("#", ...)
    for i = 1, n do
      line[i] = tostring(line[i])
    end
    stdout:write(concat(line, "\t", 1, n) .. "\n")
    stdout:flush()
  end
end
