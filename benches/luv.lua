--- luv.lua: side by side with luv's work queue, two workers on each side.
--
-- luv's tasks take and return plain values. Ours have an upvalue and a fresh table as argument. Both add 1, and every
-- result comes back to this thread: through luv's after-callback, and through our future or completion.
-- UV_THREADPOOL_SIZE=2 must be set (run.sh does): libuv reads it before its first task.
--
-- Each side runs in processes of its own, in turns. Many tasks at once are measured twice: with malloc as it starts,
-- which gives freed memory back and faults it in again (luv takes more than half a kilobyte a task), and with one that
-- keeps it, as glibc's does by itself once a program has freed a large block. The second is what a large program sees;
-- there luv is about three times as fast.

local uv = require "luv"
local rounds = dofile((arg[0]:match "^.*/" or "") .. "rounds.lua")

local ROUNDS = 5
local REPEATS = 3 -- in each process, after a warm-up
local TASKS = 100000
local TRIPS = 5000
local WORKERS = 2

assert(os.getenv "UV_THREADPOOL_SIZE" == tostring(WORKERS), "start it with UV_THREADPOOL_SIZE=" .. WORKERS)

-- luv's processes do without this module: it would leave freed memory to them.
local threadpool = (arg[1] or ""):find "^our" and require "threadpool"
local pool = threadpool and threadpool.fixed(WORKERS)
local one = 1

--- Our task, with an upvalue and a table argument.
local function add(task)
    return task.n + one
end

-- What all results of TASKS tasks must add up to.
local EXPECTED = TASKS * (TASKS + 1) / 2 + TASKS

--- Tasks a second from the nanoseconds since `start`, if no result was lost or wrong.
local function rate(start, sum)
    local seconds = (uv.hrtime() - start) / 1e9
    assert(sum == EXPECTED, "results were lost")
    return { rate = TASKS / seconds }
end

-- Many at once: all are submitted before the first result is looked at -----------------------------------------------

local function luv_many()
    local sum = 0
    local work = uv.new_work(function(n) return n + 1 end, function(n) sum = sum + n end)
    local start = uv.hrtime()
    for i = 1, TASKS do
        work:queue(i)
    end
    uv.run()
    return rate(start, sum)
end

--- One function, a future each.
local function futures_many()
    local sum, futures = 0, {}
    local start = uv.hrtime()
    for i = 1, TASKS do
        futures[i] = pool:submit(add, { n = i })
    end
    for i = 1, TASKS do
        local _, n = futures[i]:await()
        sum = sum + n
    end
    return rate(start, sum)
end

--- A new closure each (runInPool passes no arguments), and a completion here.
local function completions_many()
    local sum = 0
    local function completion(_, n) sum = sum + n end
    local here = threadpool.ECTP_COMPLETE_CALLBACK_SCHED
    local start = uv.hrtime()
    for i = 1, TASKS do
        local task = { n = i }
        threadpool.runInPool(pool, function() return task.n + one end, completion, here)
    end
    while threadpool.pending() > 0 do
        threadpool.wait()
    end
    return rate(start, sum)
end

-- One at a time: the next is submitted when the result of the one before is here -------------------------------------

--- Median and 99th percentile of TRIPS round trips, in microseconds. `trip(n)` returns n + 1 by way of a worker.
local function trips(trip)
    local times = {}
    for i = 1, TRIPS do
        local start = uv.hrtime()
        local n = trip(i)
        times[i] = (uv.hrtime() - start) / 1e3
        assert(n == i + 1)
    end
    return { p50 = rounds.quantile(times, 0.5), p99 = rounds.quantile(times, 0.99) }
end

local function luv_trips()
    local got
    local work = uv.new_work(function(n) return n + 1 end, function(n) got = n end)
    return trips(function(n)
        got = nil
        work:queue(n)
        repeat
            uv.run "once"
        until got
        return got
    end)
end

local function run_trips()
    return trips(function(n)
        local _, got = pool:run(add, { n = n })
        return got
    end)
end

local function await_trips()
    return trips(function(n)
        local _, got = pool:submit(add, { n = n }):await()
        return got
    end)
end

-- Turns --------------------------------------------------------------------------------------------------------------

-- What a process that was started with that argument measures.
local CONTENDERS = {
    luv_many = { luv_many },
    our_many = { futures_many, completions_many },
    luv_trips = { luv_trips },
    our_trips = { run_trips, await_trips },
}

if arg[1] then
    for i, figures in ipairs { rounds.run(REPEATS, CONTENDERS[arg[1]]) } do
        for name, values in pairs(figures) do
            print(("%s_%d"):format(name, i), rounds.quantile(values, 0.5))
        end
    end
    return
end

--- A contender that runs in a fresh process: { rate_1 = ..., rate_2 = ... } for its first and its second contender.
local function apart(name, environment)
    local command = ("%s '%s' '%s' %s"):format(environment or "", arg[-1], arg[0], name)
    return function()
        local figures, child = {}, assert(io.popen(command))
        for line in child:lines() do
            local key, figure = line:match "^(%S+)\t(.*)$"
            figures[key] = tonumber(figure)
        end
        child:close()
        assert(next(figures), "this has failed: " .. command)
        return figures
    end
end

local function compare_many(what, environment)
    local luv, ours = rounds.run(ROUNDS, { apart("luv_many", environment), apart("our_many", environment) })
    rounds.header("tasks a second, 100,000 outstanding; " .. what, "luv", "threadpool")
    rounds.row("submit and await; one function, a table each", luv.rate_1, ours.rate_1, ">= 1.5")
    rounds.row("runInPool with a completion; a new closure each", luv.rate_1, ours.rate_2)
end

compare_many "fresh memory"
compare_many("kept memory", "MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_TOP_PAD_=100000000")

local luv, ours = rounds.run(ROUNDS, { apart "luv_trips", apart "our_trips" })
rounds.header("round trip of one task at a time, us (less is better)", "luv", "threadpool")
rounds.row("p50  pool:run", luv.p50_1, ours.p50_1, "<= 0.5")
rounds.row("p99  pool:run", luv.p99_1, ours.p99_1)
rounds.row("p50  submit and await", luv.p50_1, ours.p50_2, "<= 0.5")
rounds.row("p99  submit and await", luv.p99_1, ours.p99_2)
