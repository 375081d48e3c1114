--- threadpool.runInPool in all its forms. The numbers M1 to M12 are those of Momentum's cases.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local describe, it, setup, teardown = helper.plainly(describe, it, setup, teardown)

local SCHED = threadpool.core.ECTP_COMPLETE_CALLBACK_SCHED
local CALLBACK = threadpool.core.ECTP_COMPLETE_CALLBACK

local function pack(...)
    return { n = select("#", ...), ... }
end

-- Dispatches what comes back until nothing is on its way.
local function settle()
    helper.eventually(function()
        threadpool.poll()
        return threadpool.pending() == 0
    end)
end

describe("runInPool, synchronous", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    it("M1 returns true and all values, with nils between and at the end", function()
        assert.are.same({ n = 1, true }, pack(threadpool.runInPool("CPU", function() end)))
        assert.are.same({ n = 2, true, nil }, pack(threadpool.runInPool("CPU", function() return nil end)))
        assert.are.same({ n = 5, true, 1, nil, "x", nil }, pack(threadpool.runInPool("CPU", function()
            return 1, nil, "x", nil
        end)))
    end)

    it("M2 returns false and the error, a table by its value", function()
        local ok, err = threadpool.runInPool("IO", function() error { code = 42, list = { 1 } } end)
        assert.are.same({ false, { code = 42, list = { 1 } } }, { ok, err })
        ok, err = threadpool.runInPool("IO", function() error "text" end)
        assert.is_false(ok)
        assert.matches("runInPool_spec%.lua:%d+: text$", err)
        assert.are.same({ n = 2, false, nil }, pack(threadpool.runInPool("IO", function() error() end)))
    end)

    it("M3 with the third argument absent, false or nil", function()
        local function fn(...) return select("#", ...) end
        assert.are.same({ true, 0 }, { threadpool.runInPool("CPU", fn) })
        assert.are.same({ true, 0 }, { threadpool.runInPool("CPU", fn, false) })
        assert.are.same({ true, 0 }, { threadpool.runInPool("CPU", fn, nil) })
        assert.are.same({ true, 0 }, { threadpool.runInPool("CPU", fn, nil, SCHED) })
        assert.are.same({ true, 0 }, { threadpool.runInPool("CPU", fn, false, SCHED) })
    end)

    it("M6 with a reference to a function as with one written in place", function()
        local function reference() return "done" end
        assert.are.same({ true, "done" }, { threadpool.runInPool("IO", reference) })
        assert.are.same({ true, "done" }, { threadpool.runInPool("IO", function() return "done" end) })
        assert.are.same({ true, "done" }, { threadpool.runInPool("IO", reference) })
    end)

    it("M7 with a pool's name in any case, its id, or itself", function()
        local function thread() return io.open("/proc/thread-self/comm"):read() end
        for _, name in ipairs { "CPU", "cpu", "Cpu", 0, threadpool.pool "CPU", threadpool.pool(0) } do
            local ok, comm = threadpool.runInPool(name, thread)
            assert.is_true(ok, comm)
            assert.matches("^CPU%-worker%-%d+$", comm)
        end
        for _, name in ipairs { "IO", "io", "iO", 1, threadpool.pool "io" } do
            local ok, comm = threadpool.runInPool(name, thread)
            assert.is_true(ok, comm)
            assert.matches("^IO%-worker%-%d+$", comm)
        end
        assert.are.same({ true, 1 }, { threadpool.runInPool(pool, function() return 1 end) })
        assert.are.same({ true, 1 }, { threadpool.runInPool(pool.id, function() return 1 end) })
        assert.are.same({ true, 1 }, { threadpool.runInPool(pool.name, function() return 1 end) })
    end)

    it("M8 on another thread than the caller's", function()
        threadpool._OSTLS.async_t_marker = 42
        assert.are.same({ n = 2, true, nil }, pack(threadpool.runInPool("CPU", function()
            return _OSTLS.async_t_marker
        end)))
        assert.are.equal(42, threadpool._OSTLS.async_t_marker)
        threadpool._OSTLS.async_t_marker = nil
    end)

    it("M9 nested: an asynchronous task of another pool, submitted by a task", function()
        local path = os.tmpname()
        local ok, value = threadpool.runInPool("CPU", function()
            local text = "written"
            threadpool.runInPool("IO", function()
                local file = io.open(path .. ".part", "w")
                file:write(text)
                file:close()
                os.rename(path .. ".part", path)
            end, true)
            return "returned"
        end)
        assert.are.same({ true, "returned" }, { ok, value })
        helper.eventually(function() return helper.content(path) == "written" end)
        os.remove(path)
    end)

    it("leaves nothing pending", function()
        threadpool.runInPool("CPU", function() end)
        threadpool.runInPool("CPU", function() error "x" end)
        assert.are.equal(0, threadpool.pending())
    end)

    it("works inside a coroutine of the host", function()
        local values = { coroutine.wrap(function() return threadpool.runInPool("CPU", function() return 5 end) end)() }
        assert.are.same({ true, 5 }, values)
    end)
end)

describe("runInPool, asynchronous", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    local function run(...)
        local ok, back = pool:run(...)
        assert.is_true(ok, back)
        return back
    end

    it("M4 returns no values, and runs", function()
        local key = "M4"
        assert.are.same({ n = 0 }, pack(threadpool.runInPool(pool, function() _OSTLS[key] = "ran" end, true)))
        -- One worker starts tasks in order: this one runs after it.
        assert.are.equal("ran", run(function() return _OSTLS[key] end))
        settle()
    end)

    it("M5 with a completion returns no values; it runs where the closure ran", function()
        local stage = "M5"
        local function returned(...)
            assert.are.same({ n = 0 }, pack(...))
        end
        for n, mode in ipairs { CALLBACK, "absent" } do
            local key = "M5" .. n
            local function closure()
                _OSTLS[key] = {}
                return 1, nil, 3, nil
            end
            local function completion(...)
                table.insert(_OSTLS[key], { n = select("#", ...), ... })
                stage = "changed, but not here"
            end
            if mode == "absent" then
                returned(threadpool.runInPool(pool, closure, completion))
            else
                returned(threadpool.runInPool(pool, closure, completion, mode))
            end
            settle()
            assert.are.same({ { n = 5, true, 1, nil, 3, nil } }, run(function() return _OSTLS[key] end))
            assert.are.equal("M5", stage)
        end
    end)

    it("M5 with ECTP_COMPLETE_CALLBACK_SCHED it is the original, here, at the next poll", function()
        local seen, calls = nil, 0
        local self = { io.stdout } -- can be captured, as the completion stays here
        assert.are.same({ n = 0 }, pack(threadpool.runInPool(pool, function() return 1, nil, nil end, function(...)
            seen = { n = select("#", ...), ... }
            self.called = true
            calls = calls + 1
        end, SCHED)))
        run(function() end) -- it has ended by now; but waiting for another task dispatches no completions
        assert.is_nil(seen)
        assert.are.equal(1, threadpool.pending())
        settle()
        assert.are.same({ n = 4, true, 1, nil, nil }, seen)
        assert.are.same({ true, 1 }, { self.called, calls })
    end)

    it("M5 any other mode means the default", function()
        local others = { 12345, -1, 0.5, "sched", "", true, false, {}, function() end }
        for n, mode in ipairs(others) do
            local key, here = "mode" .. n, true
            assert.are_not.equal(SCHED, mode)
            threadpool.runInPool(pool, function() end, function()
                _OSTLS[key] = (_OSTLS[key] or 0) + 1
                here = false
            end, mode)
            settle()
            assert.are.equal(1, run(function() return _OSTLS[key] end))
            assert.is_true(here)
        end
    end)

    it("the constants are the same flat, and two", function()
        assert.are.equal(SCHED, threadpool.ECTP_COMPLETE_CALLBACK_SCHED)
        assert.are.equal(CALLBACK, threadpool.ECTP_COMPLETE_CALLBACK)
        assert.are_not.equal(SCHED, CALLBACK)
        assert.is_not_nil(SCHED)
        assert.is_not_nil(CALLBACK)
    end)

    it("M11 a completion runs after a failed closure too, once, with the error", function()
        local calls = {}
        threadpool.runInPool(pool, function() error { why = "failed" } end, function(...)
            calls[#calls + 1] = { n = select("#", ...), ... }
        end, SCHED)
        threadpool.runInPool(pool, function() error { why = "failed" } end, function(...)
            _OSTLS.M11 = _OSTLS.M11 or {}
            table.insert(_OSTLS.M11, { n = select("#", ...), ... })
        end)
        settle()
        threadpool.poll()
        local expected = { { n = 2, false, { why = "failed" } } }
        assert.are.same(expected, calls)
        assert.are.same(expected, run(function() return _OSTLS.M11 end))
    end)

    it("M11 also after an error of nil, of text, and results that cannot be sent", function()
        local calls = {}
        local function completion(...)
            calls[#calls + 1] = pack(...)
        end
        threadpool.runInPool(pool, function() error() end, completion, SCHED)
        threadpool.runInPool(pool, function() error("text", 0) end, completion, SCHED)
        threadpool.runInPool(pool, function() return io.tmpfile() end, completion, SCHED)
        settle()
        assert.are.equal(3, #calls)
        assert.are.same({ n = 2, false, nil }, calls[1])
        assert.are.same({ n = 2, false, "text" }, calls[2])
        assert.are.equal("transfer", calls[3][2].code)
    end)

    it("a completion on the worker gets results that could not be sent home", function()
        threadpool.runInPool(pool, function() return io.tmpfile(), coroutine.create(print) end, function(ok, file, co)
            _OSTLS.direct = { ok, io.type(file), type(co) }
        end)
        settle()
        assert.are.same({ true, "file", "thread" }, run(function() return _OSTLS.direct end))
    end)

    it("completions run exactly once each, in the order of their tasks on one worker", function()
        local order, expected = {}, {}
        for n = 1, 500 do
            expected[n] = n
            threadpool.runInPool(pool, function()
                if n % 3 == 0 then
                    error("some fail", 0)
                end
                return n
            end, function(ok)
                assert.are.equal(n % 3 ~= 0, ok)
                order[#order + 1] = n
            end, SCHED)
        end
        settle()
        assert.are.same(expected, order)
    end)

    it("M12 starts tasks in the order in which they were submitted", function()
        local expected = {}
        run(function() _OSTLS.order = {} end)
        for n = 1, 1000 do
            expected[n] = n
            threadpool.runInPool(pool, function() table.insert(_OSTLS.order, n) end, true)
        end
        assert.are.same(expected, run(function() return _OSTLS.order end))
        settle()
    end)

    it("a completion may submit again, from the worker and from here", function()
        local done
        threadpool.runInPool(pool, function() return 1 end, function(_, value)
            threadpool.runInPool(pool, function() return value + 1 end, function(_, more)
                done = more
            end, SCHED)
        end, SCHED)
        helper.eventually(function()
            threadpool.poll()
            return done
        end)
        assert.are.equal(2, done)

        local id = pool.id
        threadpool.runInPool(pool, function() return 1 end, function(_, value)
            threadpool.runInPool(id, function() _OSTLS.chain = value + 10 end, true)
        end)
        settle()
        assert.are.equal(11, helper.eventually(function() return run(function() return _OSTLS.chain end) end))
    end)

    it("a completion may wait: a synchronous call inside it, from the worker and from here", function()
        local values
        threadpool.runInPool(pool, function() end, function()
            values = { threadpool.runInPool("CPU", function() return "inner" end) }
        end, SCHED)
        settle()
        assert.are.same({ true, "inner" }, values)
        threadpool.runInPool(pool, function() end, function()
            _OSTLS.waited = { threadpool.runInPool("CPU", function() return "inner" end) }
        end)
        settle()
        assert.are.same({ true, "inner" }, run(function() return _OSTLS.waited end))
    end)
end)

describe("runInPool, misused", function()
    local function raises(pattern, ...)
        local ok, err = pcall(threadpool.runInPool, ...)
        assert.is_false(ok)
        assert.are.equal("string", type(err))
        assert.matches(pattern, err)
    end

    it("raises a message for wrong types", function()
        local function fn() end
        raises "."
        raises(".", "CPU")
        raises(".", "CPU", nil)
        raises(".", "CPU", "not a function")
        raises(".", nil, fn)
        raises(".", {}, fn)
        raises(".", true, fn)
        raises(".", "CPU", fn, "a string")
        raises(".", "CPU", fn, 1)
        raises(".", "CPU", fn, {})
    end)

    it("names the place of the call", function()
        local _, err = pcall(function() threadpool.runInPool("CPU", 5) end)
        assert.matches("runInPool_spec%.lua:%d+: ", err)
        _, err = pcall(function() threadpool.runInPool({}, function() end) end)
        assert.matches("runInPool_spec%.lua:%d+: ", err)
        _, err = pcall(function() threadpool.runInPool("CPU", function() end, "x") end)
        assert.matches("runInPool_spec%.lua:%d+: ", err)
    end)

    it("an unknown pool: false and an error, or for the asynchronous forms the error is raised", function()
        local before = #threadpool.pools()
        for _, pool in ipairs { "no such pool", 987654, -1, 0.5 } do
            local ok, err = threadpool.runInPool(pool, function() end)
            assert.is_false(ok)
            assert.are.equal("nopool", err.code)
            assert.matches("^nopool: ", tostring(err))
            assert.is_truthy(tostring(err):find(tostring(pool), 1, true))
            for _, third in ipairs { true, function() end } do
                ok, err = pcall(threadpool.runInPool, pool, function() end, third)
                assert.is_false(ok)
                assert.are.equal("nopool", err.code)
            end
        end
        assert.is_true(#threadpool.pools() <= before) -- some of before may have gone
        assert.are.equal(0, threadpool.pending())
    end)

    it("a pool that was shut down: false and an error, or the error is raised", function()
        local pool = threadpool.fixed(1)
        pool:shutdown()
        local ok, err = threadpool.runInPool(pool, function() end)
        assert.is_false(ok)
        assert.are.equal("rejected", err.code)
        for _, third in ipairs { true, function() end } do
            ok, err = pcall(threadpool.runInPool, pool, function() end, third)
            assert.is_false(ok)
            assert.are.equal("rejected", err.code)
        end
        assert.are.equal(0, threadpool.pending())
    end)
end)
