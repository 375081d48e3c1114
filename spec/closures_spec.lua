--- Closures that cross: what they captured is copied, and two that share a variable share it on arrival.

local helper = require "spec.helper"
local threadpool = require "threadpool"

local assert = assert
local describe, it, setup, teardown = helper.plainly(describe, it, setup, teardown)

-- PUC 5.1 cannot tell whether two closures share a variable: there each gets one of its own.
local CELLS = helper.interpreter.version ~= "5.1" or helper.interpreter.is_jit

describe("a closure", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    local function results(ok, ...)
        assert.is_true(ok, (...))
        return ...
    end

    local function run(...)
        return results(pool:run(...))
    end

    local function cross(...)
        return results(pool:run(function(...) return ... end, ...))
    end

    it("finds what it captured", function()
        local number, text, list, none, no = 42, "text", { 1, { 2 } }, nil, false
        assert.are.same({ 42, "text", 1, 2, "nil", "boolean" }, {
            run(function()
                return number, text, list[1], list[2][1], type(none), type(no)
            end),
        })
    end)

    it("gets copies: what it assigns stays where it runs", function()
        local count, list = 1, { "here" }
        assert.are.same({ 2, "there" }, {
            run(function()
                count = count + 1
                list[1] = "there"
                return count, list[1]
            end),
        })
        assert.are.same({ 1, "here" }, { count, list[1] })
    end)

    it("is copied when it is sent", function()
        local path, open = helper.gate()
        pool:post(function() io.open(path):read() end)
        local value = "before"
        local future = pool:submit(function() return value end)
        value = "after"
        open()
        assert.are.equal("before", results(future:await(helper.TIMEOUT)))
        os.remove(path)
        assert.are.equal("after", value)
    end)

    it("sent again brings its variables as they are by then", function()
        local count, list = 0, {}
        local function task()
            local before = count
            count = count + 1000 -- must not be there at the next time
            list.dirty = true
            return before, #list
        end
        for n = 1, 50 do
            count = n
            list[n] = n
            assert.are.same({ n, n }, { run(task) })
        end
        assert.is_nil(list.dirty)
    end)

    it("sent again with variables that have become other kinds of values", function()
        local value
        local function task() return type(value), value end
        for _, kind in ipairs { 1, "two", { 3 }, true, 0.5, "six" } do
            value = kind
            assert.are.same({ type(kind), kind }, { run(task) })
        end
        value = nil
        assert.are.same({ "nil" }, { run(task) })
    end)

    -- LuaJIT compiles a variable that is never assigned into its traces, as a constant of that function object.
    it("finds its own values in loops that a compiler may have compiled for other values", function()
        local function maker(n, list)
            return function()
                local sum = 0
                for _ = 1, 100 do
                    sum = sum + n + #list
                end
                return sum
            end
        end
        for n = 1, 200 do
            assert.are.same({ 100 * (n + 1) }, { run(maker(n, { n })) })
        end
    end)

    it("of one piece of code and several values: each finds its own", function()
        local function maker(n) return function() return n end end
        local one, two = maker(1), maker(2)
        for _ = 1, 10 do
            assert.are.same({ 1, 2 }, { run(one), run(two) })
        end
    end)

    it("keeps its default when it came back and is called here", function()
        local captured = { "captured" }
        local back = cross(function(extra) return captured[1] .. extra end)
        captured[1] = "changed"
        assert.are.equal("captured!", back "!")
    end)

    it("made in the task comes back with what it captured there", function()
        local counter = run(function()
            local count = 10
            return function()
                count = count + 1
                return count
            end
        end)
        assert.are.same({ 11, 12 }, { counter(), counter() })
    end)

    it("keeps its number of parameters and its varargs", function()
        local count = cross(function(...) return select("#", ...), ... end)
        assert.are.same({ 3, nil, nil, 3 }, { count(nil, nil, 3) })
        local second = cross(function(_, b) return b end)
        assert.are.equal("b", second("a", "b", "c"))
    end)

    it("with as many variables as Lua allows", function()
        local limit = helper.interpreter.version == "5.1" and 60 or 200
        local names, values = {}, {}
        for n = 1, limit - 5 do
            names[n], values[n] = "v" .. n, tostring(n)
        end
        local source = "local %s = %s\n return function() return %s end"
        local halves = {}
        -- 200 locals are the limit of one function, so this is the limit of upvalues too on 5.2 and newer.
        for n = 1, #names do
            halves[n] = names[n] .. " * 1"
        end
        local fn = (loadstring or load)(source:format(
            table.concat(names, ", "), table.concat(values, ", "), table.concat(halves, " + ")
        ))()
        assert.are.equal(fn(), run(fn))
        assert.are.equal(#names * (#names + 1) / 2, run(fn))
    end)

    it("that calls itself", function()
        local function factorial(n)
            return n < 2 and 1 or n * factorial(n - 1)
        end
        assert.are.equal(3628800, run(factorial, 10))
        assert.are.equal(120, run(function() return factorial(5) end))
        assert.are.equal(24, cross(factorial)(4))
    end)

    it("that calls another, which calls it", function()
        local is_odd
        local function is_even(n)
            return n == 0 or is_odd(n - 1)
        end
        function is_odd(n)
            return n ~= 0 and is_even(n - 1)
        end
        assert.are.same({ true, false }, { run(is_even, 10), run(is_odd, 10) })
        local even, odd = cross(is_even, is_odd)
        assert.are.same({ false, true }, { even(7), odd(7) })
    end)

    it("that captured the table it is a method of", function()
        local object = { value = 20 }
        function object.get() return object.value + 1 end
        function object:set(value) self.value = value end
        assert.are.equal(31, run(function()
            object:set(30)
            return object.get()
        end))
        assert.are.equal(20, object.value)
        local back = cross(object)
        back.value = 1
        assert.are.equal(2, back.get())
    end)

    it("captured through several levels", function()
        local base = 1
        local function add(n) return n + base end
        local function twice(fn, n) return fn(fn(n)) end
        local function all(n) return twice(add, n) end
        assert.are.equal(12, run(function() return all(10) end))
    end)

    it("that is met twice is one", function()
        local fn = function() end
        local a, b = cross(fn, { fn })
        assert.is_true(a == b[1])
        assert.is_true(run(function(argument) return argument == fn end, fn))
    end)

    it("of the same code as another in one packet stays another", function()
        local function maker(n)
            return function(set)
                n = set or n
                return n
            end
        end
        local one, two = maker(1), maker(2)
        assert.are.same({ false, 10, 2 }, {
            run(function(a, b)
                a(10)
                return a == b, a(), b()
            end, one, two),
        })
        local a, b = cross(one, two)
        assert.is_false(a == b)
        a(5)
        assert.are.same({ 5, 2, 1, 2 }, { a(), b(), one(), two() })
    end)

    it("of the same code and no variables, twice in one packet, by tables that tell them apart", function()
        -- 5.2 and 5.3 may give the same object for both here already.
        local list = {}
        for n = 1, 2 do
            list[n] = function() return "no upvalue" end
        end
        local a, b = cross(list[1], list[2])
        assert.are.equal(list[1] == list[2], a == b)
        assert.are.same({ "no upvalue", "no upvalue" }, { a(), b() })
    end)

    it("stripped of its debug information", function()
        if helper.interpreter.version == "5.1" and not helper.interpreter.is_jit then
            return -- cannot strip
        end
        local value = 7
        local stripped = (loadstring or load)(string.dump(function(...) return ... end, true))
        assert.are.equal(value, run(stripped, value))
    end)

    it("stripped, with _ENV as its only variable", function()
        if helper.interpreter.version == "5.1" and not helper.interpreter.is_jit then
            return
        end
        local load = loadstring or load
        local stripped = load(string.dump(load "return type(print), tostring(12)", true))
        assert.are.same({ "function", "12" }, { run(stripped) })
    end)
end)

describe("a variable that two closures share", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    local function results(ok, ...)
        assert.is_true(ok, (...))
        return ...
    end

    local function run(...)
        return results(pool:run(...))
    end

    -- Here even 5.1 can do it, and its documented way around the rest.
    it("is shared where it holds a table", function()
        local shared = { 0 }
        local function bump() shared[1] = shared[1] + 1 end
        assert.are.equal(2, run(function()
            bump()
            bump()
            return shared[1]
        end))
        assert.are.equal(0, shared[1])
    end)

    if not CELLS then
        it("arrives as one for each on 5.1, with the right value", function()
            local count = 5
            local function bump()
                count = count + 1
                return count
            end
            assert.are.same({ 6, 5 }, { run(function() return bump(), count end) })
        end)
        return
    end

    it("is shared on arrival: by the task and a function that it captured", function()
        local count = 0
        local function bump() count = count + 1 end
        assert.are.equal(3, run(function()
            bump()
            bump()
            count = count + 1
            return count
        end))
        assert.are.equal(0, count)
    end)

    it("is shared by functions in tables and among arguments", function()
        local value = "none"
        local methods = {
            set = function(v) value = v end,
            deep = { get = function() return value end },
        }
        assert.are.same({ "set", "set" }, {
            run(function(m, get)
                m.set "set"
                return m.deep.get(), get()
            end, methods, methods.deep.get),
        })
        assert.are.equal("none", value)
    end)

    it("is shared by results", function()
        local set, get = run(function()
            local value = 1
            return function(v) value = v end, function() return value end
        end)
        set(99)
        assert.are.equal(99, get())
    end)

    it("is shared by functions of different nesting", function()
        local a = 1
        local function outer()
            local function inner()
                a = a + 1
                return a
            end
            return inner()
        end
        assert.are.same({ 2, 3, 3 }, {
            run(function()
                local first = outer()
                a = a + 1
                return first, a, a
            end),
        })
    end)

    it("is not shared because it holds the same value", function()
        local a, b = 0, 0
        local function bump_a() a = a + 1 return a end
        local function get_b() return b end
        assert.are.same({ 1, 0 }, { run(function() return bump_a(), get_b() end) })
    end)

    it("is shared over many functions in one packet", function()
        local sum, list = 0, {}
        for n = 1, 300 do
            list[n] = function() sum = sum + n end
        end
        assert.are.equal(300 * 301 / 2, run(function()
            for _, add in ipairs(list) do
                add()
            end
            return sum
        end))
    end)

    it("holds one of the functions that share it", function()
        local f
        local function call(n) return f(n) end
        function f(n) return n == 0 and "done" or call(n - 1) end
        assert.are.equal("done", run(call, 5))
        local new = function() return "replaced" end
        assert.are.equal("replaced", run(function()
            f = new
            return call(5)
        end))
    end)

    it("is shared past the limit of the depth", function()
        local count = 0
        local function bump() count = count + 1 return count end
        local top = { bump }
        for _ = 1, 1000 do
            top = { top }
        end
        assert.are.equal(2, run(function(t)
            bump()
            while type(t[1]) == "table" do
                t = t[1]
            end
            return t[1]()
        end, top))
    end)

    it("is shared by the closure and its completion on the worker", function()
        local stage = "captured"
        threadpool.runInPool(pool, function()
            stage = "closure"
        end, function()
            threadpool._OSTLS.seen = stage
        end)
        helper.eventually(function()
            return run(function() return threadpool._OSTLS.seen end)
        end)
        assert.are.equal("closure", run(function() return threadpool._OSTLS.seen end))
        assert.are.equal("captured", stage)
    end)
end)

describe("a closure that outlives its task", function()
    local pool

    setup(function()
        pool = threadpool.fixed(1)
    end)

    teardown(function()
        pool:shutdown()
    end)

    local function run(...)
        local ok, back, more = pool:run(...)
        assert.is_true(ok, back)
        return back, more
    end

    it("keeps its variables when the same code is sent again with others", function()
        local function maker(value)
            return function()
                value = value + 1
                return value
            end
        end
        for n = 1, 5 do
            local counter = maker(n * 100)
            assert.are.equal(n * 100 + 1, run(function()
                _OSTLS["counter" .. n] = counter
                return counter()
            end))
        end
        for n = 1, 5 do
            assert.are.equal(n * 100 + 2, run(function() return _OSTLS["counter" .. n]() end))
        end
    end)

    it("the task itself, taken by its name", function()
        local value = 0
        local function task(keep)
            if keep then
                _OSTLS[keep] = task
            end
            value = value + 1
            return value
        end
        for n = 1, 5 do
            value = n * 100
            assert.are.equal(n * 100 + 1, run(task, "task" .. n))
        end
        for n = 1, 5 do
            assert.are.equal(n * 100 + 2, run(function() return _OSTLS["task" .. n]() end))
        end
    end)

    it("made by the task, over a variable of the task", function()
        local value = 0
        local function task(name)
            _OSTLS[name] = function()
                value = value + 1
                return value
            end
            return value
        end
        for n = 1, 5 do
            value = n * 100
            assert.are.equal(n * 100, run(task, "inner" .. n))
        end
        for n = 1, 5 do
            assert.are.equal(n * 100 + 1, run(function() return _OSTLS["inner" .. n]() end))
        end
    end)

    it("in a coroutine that goes on in a later task", function()
        local value = 0
        local function task(name)
            _OSTLS[name] = coroutine.wrap(function()
                while true do
                    value = value + 1
                    coroutine.yield(value)
                end
            end)
            return _OSTLS[name]()
        end
        for n = 1, 5 do
            value = n * 100
            assert.are.equal(n * 100 + 1, run(task, "wrap" .. n))
        end
        for n = 1, 5 do
            assert.are.equal(n * 100 + 2, run(function() return _OSTLS["wrap" .. n]() end))
        end
    end)

    it("several runs of one piece of code are alive in one worker, each with its own values", function()
        local futures = {}
        for n = 1, 20 do
            local value = n
            futures[n] = pool:submit(function()
                local before = value
                value = value + 1000
                for _ = 1, 3 do
                    threadpool.sleep(0.001)
                end
                return before, value
            end)
        end
        for n = 1, 20 do
            local ok, before, after = futures[n]:await(helper.TIMEOUT)
            assert.are.same({ true, n, n + 1000 }, { ok, before, after })
        end
    end)

    it("that is collected in the worker leaves nothing wrong behind", function()
        for round = 1, 20 do
            local function maker(value) return function() return value end end
            local fn = maker { round }
            assert.are.equal(round, run(function()
                collectgarbage()
                return fn()[1]
            end))
            collectgarbage()
        end
    end)
end)
