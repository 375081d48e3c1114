--- How tasks fail: the error value arrives as it was, the traceback names the user's lines, the worker lives on.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local pending = pending
local describe, it, setup, teardown = helper.plainly(describe, it, setup, teardown)

local function pack(...)
    return { n = select("#", ...), ... }
end

local function line()
    return debug.getinfo(2, "l").currentline
end

describe("an error value", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    local function fails(fn, ...)
        local ok, err = pool:run(fn, ...)
        assert.is_false(ok)
        return err
    end

    it("text has the position of the user's line", function()
        local expected = "errors_spec.lua:" .. line() + 1 .. ": message"
        local err = fails(function() error "message" end)
        assert.are.equal(expected, err:sub(-#expected))
    end)

    it("text of level 2 has the caller's, of level 0 none", function()
        local function check() error("message", 2) end
        local expected = "errors_spec.lua:" .. line() + 1 .. ": message"
        local err = fails(function() check() return nil end)
        assert.are.equal(expected, err:sub(-#expected))
        assert.are.equal("bare", fails(function() error("bare", 0) end))
    end)

    it("of Lua itself has the position and the name of the variable", function()
        local expected = "errors_spec.lua:" .. line() + 1 .. ": "
        local err = fails(function() local nothing = nil return nothing.field end)
        assert.is_truthy(err:find(expected, 1, true), err)
        assert.matches("attempt to index .*'nothing'", err)
    end)

    it("tables arrive by value, cycles and all", function()
        assert.are.same({ code = 1, list = { "a" } }, fails(function() error { code = 1, list = { "a" } } end))
        local err = fails(function()
            local e = {}
            e.self = e
            error(e)
        end)
        assert.is_true(err.self == err)
    end)

    it("objects arrive with their metatable", function()
        local err = fails(function()
            error(setmetatable({ what = "object" }, {
                __tostring = function(self) return "error " .. self.what end,
                __index = { retry = function(self) return self.what end },
            }))
        end)
        assert.are.equal("error object", tostring(err))
        assert.are.equal("object", err:retry())
    end)

    it("nil, booleans, numbers and functions arrive as they are", function()
        assert.are.same({ n = 2, false, nil }, pack(pool:run(function() error(nil) end)))
        assert.are.same({ n = 2, false, false }, pack(pool:run(function() error(false) end)))
        assert.are.equal(true, fails(function() error(true) end))
        assert.are.equal(42, fails(function() error(42, 0) end))
        assert.are.equal("called", fails(function() error(function() return "called" end) end)())
    end)

    it("that was captured arrives back as a copy", function()
        local captured = { "mine" }
        local err = fails(function() error(captured) end)
        assert.are.same(captured, err)
        assert.is_false(err == captured)
    end)

    it("whose __tostring fails does no harm", function()
        local err = fails(function() error(setmetatable({}, { __tostring = function() error "in __tostring" end })) end)
        assert.are.equal("table", type(err))
        err = fails(function()
            error(setmetatable({ io.tmpfile() }, { __tostring = function() error "in __tostring" end }))
        end)
        assert.is_not_nil(err)
        assert.are.same({ true, 1 }, { pool:run(function() return 1 end) })
    end)

    it("of a stack overflow, of memory, of a C stack overflow: that task fails, the worker lives on", function()
        local function forever(n) return 1 + forever(n + 1) end
        for _, fn in ipairs {
            function() return forever(1) end,
            function()
                local t = setmetatable({}, {})
                getmetatable(t).__index = function(_, k) return t[k + 1] end
                return t[1]
            end,
        } do
            assert.matches("overflow", fails(fn))
            assert.are.same({ true, 1 }, { pool:run(function() return 1 end) })
        end
        -- Before 5.3 a length is taken modulo 2^32.
        if math.type then
            assert.is_not_nil(fails(function() return ("x"):rep(2 ^ 42) end))
            assert.are.same({ true, 1 }, { pool:run(function() return 1 end) })
        end
    end)

    it("in a handler of an error: that task fails, the worker lives on", function()
        local ok = pool:run(function()
            return xpcall(error, function() error "in the handler" end)
        end)
        assert.is_true(ok)
        assert.are.same({ true, 1 }, { pool:run(function() return 1 end) })
    end)

    it("in a finalizer disturbs no task", function()
        for _ = 1, 5 do
            local ok, value = pool:run(function()
                if newproxy then
                    getmetatable(newproxy(true)).__gc = function() error "in __gc" end
                else
                    setmetatable({}, { __gc = function() error "in __gc" end })
                end
                return "fine"
            end)
            assert.are.same({ true, "fine" }, { ok, value })
        end
        -- 5.1 to 5.3 raise it out of a collection that the script asked for; 5.4 warns.
        pool:run(function() collectgarbage() end)
        pool:run(function() collectgarbage() end)
        assert.are.same({ true, 1 }, { pool:run(function() return 1 end) })
    end)
end)

describe("a traceback", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    local function traceback(fn)
        local future = pool:submit(fn)
        assert.is_false((future:await(helper.TIMEOUT)))
        return future:traceback()
    end

    it("names the functions and lines of the task", function()
        local inner_line
        local function inner()
            error "deep"
        end
        inner_line = line() - 2
        local function middle()
            inner()
            return "no tail call"
        end
        local text = traceback(function()
            middle()
            return "no tail call"
        end)
        assert.matches("stack traceback:", text)
        assert.is_truthy(text:find("errors_spec.lua:" .. inner_line .. ":", 1, true), text)
        assert.is_truthy(text:find("errors_spec.lua:" .. inner_line + 4 .. ":", 1, true), text)
        assert.is_truthy(text:find("errors_spec.lua:" .. inner_line + 8 .. ":", 1, true), text)
    end)

    it("is there for error values that are no text", function()
        local text = traceback(function() error { "table" } end)
        assert.matches("errors_spec%.lua:%d+: in ", text)
    end)

    pending("says where the task was submitted", function()
        local expected = "submitted at .*errors_spec%.lua:" .. line() + 1
        local future = pool:submit(function() error "x" end)
        future:await()
        assert.matches(expected, future:traceback())
    end)
end)

describe("an error that nobody waits for", function()
    local pool, reports

    setup(function()
        pool = threadpool.fixed(1)
        threadpool.on_error(function(...)
            reports[#reports + 1] = { n = select("#", ...), ... }
        end)
    end)

    teardown(function()
        pool:shutdown()
        threadpool.on_error()
    end)

    local function settle()
        helper.eventually(function()
            threadpool.poll()
            return threadpool.pending() == 0
        end)
    end

    it("comes to on_error at the next poll, as it was, with its traceback and its task", function()
        reports = {}
        pool:post(function() error { code = 7 } end)
        pool:run(function() end)
        assert.are.same({}, reports)
        settle()
        assert.are.equal(1, #reports)
        local err, traceback, task = reports[1][1], reports[1][2], reports[1][3]
        assert.are.same({ code = 7 }, err)
        assert.matches("stack traceback:", traceback)
        assert.matches("errors_spec%.lua:%d+: in ", traceback)
        assert.is_truthy(task)
    end)

    it("from each form that has no other way to say it", function()
        reports = {}
        pool:post(function() error("post", 0) end)
        threadpool.runInPool(pool, function() error("async", 0) end, true)
        settle()
        assert.are.same({ "post", "async" }, { reports[1][1], reports[2][1] })
        assert.are.equal(2, #reports)
    end)

    it("of nil too", function()
        reports = {}
        pool:post(function() error() end)
        settle()
        assert.are.equal(1, #reports)
        assert.is_nil(reports[1][1])
    end)

    it("does not come there when a completion took it", function()
        reports = {}
        local taken = 0
        threadpool.runInPool(pool, function() error "x" end, function() taken = taken + 1 end,
            threadpool.core.ECTP_COMPLETE_CALLBACK_SCHED)
        threadpool.runInPool(pool, function() error "x" end, function(ok) _OSTLS.taken = not ok end)
        pool:run(function() error "x" end)
        threadpool.runInPool(pool, function() error "x" end)
        pool:submit(function() error "x" end):await()
        settle()
        assert.are.equal(1, taken)
        assert.are.same({ true, true }, { pool:run(function() return _OSTLS.taken end) })
        assert.are.same({}, reports)
    end)

    it("raised by a completion on its worker", function()
        reports = {}
        threadpool.runInPool(pool, function() end, function() error("in completion", 0) end)
        settle()
        assert.are.equal(1, #reports)
        assert.are.equal("in completion", reports[1][1])
    end)

    it("raised by a completion here: the others run, nothing is lost", function()
        reports = {}
        local calls = {}
        for n = 1, 5 do
            threadpool.runInPool(pool, function() end, function()
                calls[#calls + 1] = n
                if n % 2 == 0 then
                    error("completion " .. n, 0)
                end
            end, threadpool.core.ECTP_COMPLETE_CALLBACK_SCHED)
        end
        pool:run(function() end)
        local raised = {}
        helper.eventually(function()
            local ok, err = pcall(threadpool.poll)
            if not ok then
                raised[#raised + 1] = err
            end
            return threadpool.pending() == 0
        end)
        assert.are.same({ 1, 2, 3, 4, 5 }, calls)
        local seen = {}
        for _, err in ipairs(raised) do
            seen[#seen + 1] = err
        end
        for _, report in ipairs(reports) do
            seen[#seen + 1] = report[1]
        end
        assert.are.same({ "completion 2", "completion 4" }, seen)
    end)

    it("of results that cannot be sent home", function()
        reports = {}
        pool:post(function() error { io.tmpfile() } end)
        settle()
        assert.are.equal(1, #reports)
    end)

    it("of a future whose handle was dropped", function()
        reports = {}
        pool:submit(function() error("dropped", 0) end)
        pool:run(function() end)
        helper.eventually(function()
            collectgarbage()
            threadpool.poll()
            return #reports > 0
        end)
        assert.are.equal("dropped", reports[1][1])
        assert.are.equal(1, #reports)
    end)

    it("a handler that fails itself does not hide it, nor lose others", function()
        local status, out, err = helper.run [[
            local threadpool = require "threadpool"
            local pool = threadpool.fixed(1)
            local calls = 0
            threadpool.on_error(function(message)
                calls = calls + 1
                error("handler failed on " .. message, 0)
            end)
            for n = 1, 3 do
                pool:post(function() error("task " .. n, 0) end)
            end
            local raised = 0
            while threadpool.pending() > 0 do
                local ok, err = pcall(threadpool.wait)
                if not ok then
                    raised = raised + 1
                    io.stderr:write(err, "\n")
                end
            end
            print(calls)
        ]]
        assert.are.same({ 0, "3\n" }, { status, out })
        for n = 1, 3 do
            assert.is_truthy(err:find("handler failed on task " .. n, 1, true), err)
        end
    end)

    it("goes to stderr when no handler is set, with the traceback, and again after on_error()", function()
        local status, out, err = helper.run [[
            local threadpool = require "threadpool"
            local pool = threadpool.fixed(1)
            local function settle() while threadpool.pending() > 0 do threadpool.wait() end end
            pool:post(function() error "first" end)
            settle()
            threadpool.on_error(function(message) print("handler", message) end)
            pool:post(function() error("second", 0) end)
            settle()
            threadpool.on_error()
            pool:post(function() error { "a table" } end)
            settle()
        ]]
        assert.are.same({ 0, "handler\tsecond\n" }, { status, out })
        assert.matches(":4: first\n", err)
        assert.matches("stack traceback:", err)
        assert.matches("table: ?0x", err)
        assert.is_nil(err:find "second")
    end)

    it("on_error refuses what is no function", function()
        for _, wrong in ipairs { "x", 1, {}, true } do
            local ok, err = pcall(function() threadpool.on_error(wrong) end)
            assert.is_false(ok)
            assert.matches("errors_spec%.lua:%d+: ", err)
        end
    end)
end)
