--- Workers as the operating system sees them: how many, their names, and that they cost nothing while idle.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local describe, it = helper.plainly(describe, it)

local TASKS = "/proc/self/task"

-- Names of this process's threads that match, sorted. Linux keeps 15 bytes of a name.
local function threads(pattern)
    local found = {}
    for id in require("lfs").dir(TASKS) do
        local name = (helper.content(TASKS .. "/" .. id .. "/comm") or ""):match "[^\n]*" -- it may have gone meanwhile
        if name:match(pattern) then
            found[#found + 1] = name
        end
    end
    table.sort(found)
    return found
end

local function settle()
    helper.eventually(function()
        threadpool.poll()
        return threadpool.pending() == 0
    end)
end

describe("workers", function()
    it("are started by the tasks that need them, and are never more than the pool allows", function()
        local pool = threadpool.fixed(3, { name = "grow" })
        assert.are.same({}, threads "^grow%-")
        pool:run(function() end)
        assert.are.equal(1, #threads "^grow%-worker%-")

        local gates, opens = {}, {}
        for n = 1, 10 do
            gates[n], opens[n] = helper.gate()
            local path = gates[n]
            pool:post(function() io.open(path):read() end)
        end
        helper.eventually(function() return pool:stats().queue_length == 7 end)
        assert.are.same({ "grow-worker-1", "grow-worker-2", "grow-worker-3" }, threads "^grow%-")
        for n = 1, 10 do
            opens[n]()
        end
        settle()
        assert.are.equal(3, #threads "^grow%-")
        pool:shutdown()
        assert.is_true(pool:wait_for_termination(helper.TIMEOUT))
        helper.eventually(function() return #threads "^grow%-" == 0 end)
        for n = 1, 10 do
            os.remove(gates[n])
        end
    end)

    it("are named after their pool", function()
        threadpool.runInPool("CPU", function() end)
        threadpool.runInPool("IO", function() end)
        assert.is_true(#threads "^CPU%-worker%-%d+$" >= 1)
        assert.is_true(#threads "^IO%-worker%-%d+$" >= 1)
        local pool = threadpool.fixed(1)
        local ok, name = pool:run(function() return io.open("/proc/thread-self/comm"):read() end)
        assert.is_true(ok)
        assert.are.equal((pool.name .. "-worker-1"):sub(1, 15), name)
        pool:shutdown()
    end)

    it("with a long name are cut by the system, not refused", function()
        local pool = threadpool.fixed(1, { name = ("long"):rep(20) })
        assert.are.same({ true, 1 }, { pool:run(function() return 1 end) })
        assert.are.equal(1, #threads "^longlonglong")
        pool:shutdown()
    end)

    it("run tasks side by side: two that wait for each other both end", function()
        local pool = threadpool.fixed(2)
        local a, b = os.tmpname(), os.tmpname()
        os.remove(a)
        os.remove(b)
        -- Blocks its thread, and never parks.
        local function meet(mine, other)
            local file = io.open(mine, "w")
            file:close()
            local limit = os.time() + 60
            repeat
                file = io.open(other)
            until file or os.time() > limit
            return file ~= nil and file:close() and true
        end
        local one, two = pool:submit(meet, a, b), pool:submit(meet, b, a)
        assert.are.same({ true, true }, { one:await(helper.TIMEOUT) })
        assert.are.same({ true, true }, { two:await(helper.TIMEOUT) })
        os.remove(a)
        os.remove(b)
        pool:shutdown()
    end)

    it("of IO grow with what blocks: twenty tasks at once", function()
        local gates, opens = {}, {}
        for n = 1, 20 do
            gates[n], opens[n] = helper.gate()
            local path = gates[n]
            threadpool.runInPool("IO", function() io.open(path):read() end, true)
        end
        helper.eventually(function()
            return threadpool.pool("IO"):stats().queue_length == 0 and #threads "^IO%-worker%-" >= 20
        end)
        for n = 20, 1, -1 do
            opens[n]()
        end
        settle()
        for n = 1, 20 do
            os.remove(gates[n])
        end
    end)

    it("of a pool with one worker never run two tasks at once", function()
        local pool = threadpool.fixed(1)
        for _ = 1, 200 do
            pool:post(function()
                _OSTLS.inside = (_OSTLS.inside or 0) + 1
                _OSTLS.most = math.max(_OSTLS.most or 0, _OSTLS.inside)
                for _ = 1, 1000 do end -- luacheck: ignore 542
                _OSTLS.inside = _OSTLS.inside - 1
            end)
        end
        assert.are.same({ true, 1 }, { pool:run(function() return _OSTLS.most end) })
        settle()
        pool:shutdown()
    end)

    it("block every signal but their own: an alarm reaches the main thread", function()
        threadpool.runInPool("CPU", function() end)
        local ok, mask = threadpool.runInPool("CPU", function()
            for line in io.lines "/proc/thread-self/status" do
                if line:match "^SigBlk:" then
                    return line:match "%x+$"
                end
            end
        end)
        assert.is_true(ok)
        -- SIGINT 2, SIGTERM 15, SIGCHLD 17: bit n - 1, in hexadecimal digits from the right.
        local function blocked(signal)
            local digit = tonumber(mask:sub(-math.floor((signal - 1) / 4) - 1, -math.floor((signal - 1) / 4) - 1), 16)
            return math.floor(digit / 2 ^ ((signal - 1) % 4)) % 2 == 1
        end
        for _, signal in ipairs { 1, 2, 3, 10, 12, 13, 14, 15, 17 } do
            assert.is_true(blocked(signal), "signal " .. signal)
        end
    end)
end)

describe("an idle process #timing", function()
    -- Ticks of processor time that a fresh process used in its last half second.
    local function idle(program)
        local status, out, err = helper.run([[
            local threadpool = require "threadpool"
            local function used()
                local file = io.open "/proc/self/stat"
                local fields = file:read("*a"):match "%) (.*)"
                file:close()
                local n, sum = 0, 0
                for field in fields:gmatch "%S+" do
                    n = n + 1
                    if n == 12 or n == 13 then
                        sum = sum + tonumber(field)
                    end
                end
                return sum
            end
        ]] .. program)
        assert.are.same({ 0, "" }, { status, err })
        return tonumber(out)
    end

    it("does not spin: workers of three pools", function()
        local ticks = idle [[
            for _ = 1, 50 do
                threadpool.runInPool("CPU", function() end)
                threadpool.runInPool("IO", function() end, true)
            end
            local pool = threadpool.fixed(8)
            for _ = 1, 50 do
                pool:post(function() end)
            end
            threadpool.sleep(0.1)
            local before = used()
            threadpool.sleep(0.5)
            print(used() - before)
        ]]
        assert.is_true(ticks <= 5, ticks .. " ticks of 1/100 s")
    end)

    it("does not spin: tasks that sleep, a host that waits", function()
        local ticks = idle [[
            local pool = threadpool.fixed(2)
            for _ = 1, 20 do
                pool:post(function() threadpool.sleep(0.8) end)
            end
            threadpool.wait(0.1)
            local before = used()
            threadpool.wait(0.5)
            print(used() - before)
        ]]
        assert.is_true(ticks <= 5, ticks .. " ticks of 1/100 s")
    end)

    it("does not spin: a host that waits for a future, outcomes that nobody fetches", function()
        local ticks = idle [[
            local pool = threadpool.fixed(2)
            for _ = 1, 20 do
                pool:post(function() end)
            end
            local future = pool:submit(function() threadpool.sleep(0.8) end)
            threadpool.fd()
            future:await(0.1)
            local before = used()
            future:await(0.5)
            print(used() - before)
        ]]
        assert.is_true(ticks <= 5, ticks .. " ticks of 1/100 s")
    end)

    it("does not spin: a task that waits in a coroutine of its own, which cannot be parked", function()
        local ticks = idle [[
            local pool = threadpool.fixed(1)
            pool:post(function() coroutine.wrap(function() threadpool.sleep(0.9) end)() end)
            threadpool.wait(0.1)
            local before = used()
            threadpool.wait(0.5)
            print(used() - before)
        ]]
        assert.is_true(ticks <= 5, ticks .. " ticks of 1/100 s")
    end)
end)
