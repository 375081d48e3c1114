--- luv.lua [shared]: side by side with luv's work queue, two workers on each side.
--
-- luv's tasks take and return plain values. Ours have an upvalue and a fresh table as argument. Both add 1, and every
-- result comes back to this thread: through luv's after-callback, and through our future or completion.
-- UV_THREADPOOL_SIZE=2 must be set (run.sh does): libuv reads it before its first task.
--
-- Each side runs in a process of its own, in turns, as programs have one of the two. With `shared` both take turns in
-- one process: luv allocates more than half a kilobyte a task, and on pages that the other side has left behind it is
-- about twice as fast as on fresh ones.

local threadpool = require "threadpool"
local uv = require "luv"
local rounds = dofile((arg[0]:match "^.*/" or "") .. "rounds.lua")

local ROUNDS = 5
local REPEATS = 3 -- in each process, after a warm-up
local TASKS = 100000
local TRIPS = 5000
local WORKERS = 2

assert(os.getenv "UV_THREADPOOL_SIZE" == tostring(WORKERS), "start it with UV_THREADPOOL_SIZE=" .. WORKERS)

local pool = threadpool.fixed(WORKERS)
local one = 1
local HERE = threadpool.ECTP_COMPLETE_CALLBACK_SCHED

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
    local start = uv.hrtime()
    for i = 1, TASKS do
        local task = { n = i }
        threadpool.runInPool(pool, function() return task.n + one end, completion, HERE)
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

local SIDES = {
    luv = { many = luv_many, trip = luv_trips },
    threadpool = { futures = futures_many, completions = completions_many, run = run_trips, await = await_trips },
}

--- The medians of all that one side measures in this process: { ["trip p50"] = 11.2, ... }.
local function measure(side)
    local medians = {}
    for name, contender in pairs(SIDES[side]) do
        for figure, values in pairs(rounds.run(REPEATS, { contender })) do
            medians[name .. " " .. figure] = rounds.quantile(values, 0.5)
        end
    end
    return medians
end

--- The same from a fresh process, which prints a line for each figure.
local function measure_apart(side)
    local medians = {}
    local child = assert(io.popen(("'%s' '%s' %s"):format(arg[-1], arg[0], side)))
    for line in child:lines() do
        local name, figure = line:match "^(.-)\t(.*)$"
        medians[name] = tonumber(figure)
    end
    child:close()
    assert(next(medians), "the process that measures " .. side .. " has failed")
    return medians
end

if SIDES[arg[1]] then
    for name, figure in pairs(measure(arg[1])) do
        print(name, figure)
    end
    return
end

local turn = arg[1] == "shared" and measure or measure_apart
local luv, ours = rounds.run(ROUNDS, {
    function() return turn "luv" end,
    function() return turn "threadpool" end,
})
rounds.header(("tasks a second, %d outstanding (more is better)"):format(TASKS), "luv", "threadpool")
rounds.row("submit and await; one function, a table each", luv["many rate"], ours["futures rate"], ">= 1.5")
rounds.row("runInPool with a completion; a new closure each", luv["many rate"], ours["completions rate"])
rounds.header("round trip of one task at a time, us (less is better)", "luv", "threadpool")
rounds.row("p50  pool:run", luv["trip p50"], ours["run p50"], "<= 0.5")
rounds.row("p99  pool:run", luv["trip p99"], ours["run p99"])
rounds.row("p50  submit and await", luv["trip p50"], ours["await p50"], "<= 0.5")
rounds.row("p99  submit and await", luv["trip p99"], ours["await p99"])
