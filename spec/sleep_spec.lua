--- threadpool.sleep, and what a task that waits lets others do: it is parked, or where it cannot be, its pool gets
-- another worker meanwhile. So nesting into a pool of one worker works anywhere.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local describe, it, before_each, after_each = helper.plainly(describe, it, before_each, after_each)

local function settle()
    helper.eventually(function()
        threadpool.poll()
        return threadpool.pending() == 0
    end)
end

describe("sleep", function()
    local pool

    before_each(function()
        pool = threadpool.fixed(1)
    end)

    after_each(function()
        pool:shutdown()
    end)

    it("takes that long in a plain script, and in a task #timing", function()
        local system = require "system"
        local before = system.monotime()
        threadpool.sleep(0.05)
        assert.is_true(system.monotime() - before >= 0.05)
        before = system.monotime()
        assert.are.same({ true }, { pool:run(function() threadpool.sleep(0.05) end) })
        assert.is_true(system.monotime() - before >= 0.05)
    end)

    it("in a task lets others of the same worker run", function()
        local first = pool:submit(function()
            _OSTLS.steps = { "first starts" }
            while not _OSTLS.go do
                threadpool.sleep(0.001)
            end
            table.insert(_OSTLS.steps, "first ends")
            return _OSTLS.steps
        end)
        pool:post(function()
            table.insert(_OSTLS.steps, "second")
            _OSTLS.go = true
        end)
        assert.are.same({ true, { "first starts", "second", "first ends" } }, { first:await(helper.TIMEOUT) })
        settle()
    end)

    it("of 0 lets others run too", function()
        local first = pool:submit(function()
            for _ = 1, 100000 do
                if _OSTLS.go then
                    return "went on"
                end
                threadpool.sleep(0)
            end
            return "the other task never ran"
        end)
        pool:post(function() _OSTLS.go = true end)
        assert.are.same({ true, "went on" }, { first:await(helper.TIMEOUT) })
        settle()
    end)

    it("goes on in the order of the times", function()
        local futures = {}
        for n, seconds in ipairs { 0.09, 0.01, 0.05 } do
            futures[n] = pool:submit(function()
                threadpool.sleep(seconds)
                _OSTLS.woken = (_OSTLS.woken or "") .. n
                return _OSTLS.woken
            end)
        end
        assert.are.same({ true, "231" }, { futures[1]:await(helper.TIMEOUT) })
        settle()
    end)

    it("many at once", function()
        local futures = {}
        for n = 1, 1000 do
            futures[n] = pool:submit(function()
                threadpool.sleep(n % 7 / 1000)
                return n
            end)
        end
        for n = 1, 1000 do
            assert.are.same({ true, n }, { futures[n]:await(helper.TIMEOUT) })
        end
    end)

    it("keeps the task's locals, and goes on after an error that pcall caught", function()
        local ok, values = pool:run(function()
            local list = {}
            for n = 1, 5 do
                threadpool.sleep(0)
                local fine = pcall(function()
                    threadpool.sleep(0)
                    error "caught"
                end)
                list[n] = fine
            end
            return list
        end)
        assert.are.same({ true, { false, false, false, false, false } }, { ok, values })
    end)

    it("an error after it fails the task, with its traceback", function()
        local future = pool:submit(function()
            threadpool.sleep(0.001)
            error "after the sleep"
        end)
        local ok, err = future:await(helper.TIMEOUT)
        assert.is_false(ok)
        assert.matches("after the sleep", err)
        assert.matches("sleep_spec%.lua:%d+:", future:traceback())
    end)

    it("refuses what is no time, with the place of the call", function()
        for _, wrong in ipairs { "soon", {}, true } do
            local ok, err = pcall(function() threadpool.sleep(wrong) end)
            assert.is_false(ok)
            assert.matches("sleep_spec%.lua:%d+: ", err)
        end
        assert.is_false((pcall(threadpool.sleep)))
        local ok, err = pool:run(function() threadpool.sleep {} end)
        assert.is_false(ok)
        assert.matches("sleep_spec%.lua:%d+: ", err)
    end)

    it("of a coroutine that a task made takes its time and comes back there", function()
        local ok, first, second = pool:run(function()
            local co = coroutine.wrap(function()
                threadpool.sleep(0.001)
                coroutine.yield "slept once"
                threadpool.sleep(0.001)
                return "slept twice"
            end)
            return co(), co()
        end)
        assert.are.same({ true, "slept once", "slept twice" }, { ok, first, second })
    end)
end)

describe("a task that waits for another of its pool of one worker", function()
    local pool

    before_each(function()
        pool = threadpool.fixed(1)
    end)

    after_each(function()
        pool:shutdown()
    end)

    -- Each is one way for a task to call `wait`, which waits for a second task of the same pool.
    local ways = {
        ["plainly"] = function(wait) return wait() end,
        ["in pcall"] = function(wait) return select(2, pcall(wait)) end,
        ["in xpcall"] = function(wait) return select(2, xpcall(wait, tostring)) end,
        ["in pcall in pcall"] = function(wait) return select(3, pcall(pcall, wait)) end,
        ["in a coroutine"] = function(wait) return coroutine.wrap(wait)() end,
        ["in a coroutine in a coroutine"] = function(wait)
            return coroutine.wrap(function() return coroutine.wrap(wait)() end)()
        end,
        ["in a coroutine that has yielded"] = function(wait)
            local co = coroutine.wrap(function()
                coroutine.yield()
                coroutine.yield(wait())
            end)
            co()
            return co()
        end,
        ["in pcall in a coroutine"] = function(wait)
            return coroutine.wrap(function() return select(2, pcall(wait)) end)()
        end,
        ["in a function of table.sort"] = function(wait)
            local value
            table.sort({ 1, 2 }, function(a, b)
                value = wait()
                return a < b
            end)
            return value
        end,
        ["in a function of string.gsub"] = function(wait) return (("x"):gsub("x", function() return wait() end)) end,
        ["in a metamethod"] = function(wait)
            return setmetatable({}, { __index = function() return wait() end }).field
        end,
        ["in __tostring"] = function(wait)
            return tostring(setmetatable({}, { __tostring = function() return wait() end }))
        end,
        ["in __lt"] = function(wait)
            local value
            local meta = { __lt = function() value = wait() return true end }
            return setmetatable({}, meta) < setmetatable({}, meta) and value
        end,
        ["in an iterator"] = function(wait)
            local found
            for value in function(_, last) return not last and wait() or nil end do
                found = value
            end
            return found
        end,
        ["in a chunk of load"] = function(wait) return (loadstring or load) "return (...)()"(wait) end,
        ["in a module's chunk"] = function(wait)
            package.preload.waits = function() return wait() end
            local value = require "waits"
            package.preload.waits, package.loaded.waits = nil, nil
            return value
        end,
        ["in an error handler"] = function(wait)
            return select(2, xpcall(error, function() return wait() end))
        end,
    }

    local names = {}
    for name in pairs(ways) do
        names[#names + 1] = name
    end
    table.sort(names)

    local function each(wait)
        for _, name in ipairs(names) do
            local way = ways[name]
            it(name, function()
                local id = pool.id
                for _ = 1, 3 do
                    local ok, value = pool:run(function() return way(function() return wait(id) end) end)
                    assert.are.same({ true, "inner 42" }, { ok, value })
                end
                assert.are.same({ true, "next" }, { pool:run(function() return "next" end) })
            end)
        end
    end

    describe("by runInPool,", function()
        each(function(id)
            local n = 42
            local _, value = threadpool.runInPool(id, function() return "inner " .. n end)
            return value
        end)
    end)

    describe("by a future,", function()
        each(function(id)
            local future = threadpool.pool(id):submit(function(n) return "inner " .. n end, 42)
            return future:get()
        end)
    end)

    it("ten deep", function()
        local id = pool.id
        local function nest(n)
            if n == 0 then
                return "bottom"
            end
            local ok, value = threadpool.runInPool(id, function() return nest(n - 1) end)
            return (ok and "" or "failed ") .. value
        end
        assert.are.same({ true, "bottom" }, { pool:run(nest, 10) })
    end)

    it("six deep where it cannot be parked", function()
        local id = pool.id
        local function nest(n)
            if n == 0 then
                return "bottom"
            end
            return coroutine.wrap(function()
                local ok, value = threadpool.runInPool(id, function() return nest(n - 1) end)
                return (ok and "" or "failed ") .. tostring(value)
            end)()
        end
        assert.are.same({ true, "bottom" }, { pool:run(nest, 6) })
    end)

    it("too deep where it cannot be parked ends in an error, not in a hang", function()
        local id = pool.id
        local function nest(n)
            if n == 0 then
                return "bottom"
            end
            return coroutine.wrap(function()
                local ok, value = threadpool.runInPool(id, function() return nest(n - 1) end)
                return ok and value or tostring(value)
            end)()
        end
        local future = pool:submit(nest, 2000)
        local ok, value = future:await(6 * helper.TIMEOUT)
        assert.is_true(ok, value)
        assert.is_true(value == "bottom" or value:find "^deadlock: " ~= nil, value)
        assert.are.same({ true, "next" }, { pool:run(function() return "next" end) })
    end)

    it("many, at once, in a pool of two", function()
        local two = threadpool.fixed(2)
        local id, futures = two.id, {}
        for n = 1, 200 do
            futures[n] = two:submit(function()
                local _, value = threadpool.runInPool(id, function()
                    local _, inner = threadpool.runInPool(id, function() return n end)
                    return inner
                end)
                return value
            end)
        end
        for n = 1, 200 do
            assert.are.same({ true, n }, { futures[n]:await(helper.TIMEOUT) })
        end
        two:shutdown()
    end)

    it("workers that stood in for blocked ones leave again", function()
        local id = pool.id
        pool:run(function()
            coroutine.wrap(function() threadpool.runInPool(id, function() end) end)()
        end)
        helper.eventually(function()
            pool:run(function() end)
            return pool:stats().length == 1
        end)
    end)
end)
