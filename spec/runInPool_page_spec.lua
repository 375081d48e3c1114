--- The examples of Momentum's page on msys.runInPool, as they stand there.

local helper = require "spec.helper"

describe("the runInPool page", function()
    local function run(program)
        local status, out, err = helper.run('msys = require "threadpool"\n_OSTLS = msys._OSTLS\n' .. program)
        return { status, out, err }
    end

    it("a synchronous call", function()
        assert.are.same({ 0, "true\tresult\nfalse\ttrue\n", "" }, run [[
            local pool, closure = "CPU", function() return "result" end
status, result = msys.runInPool(pool, closure)
            print(status, result)
            closure = function() error("failed") end
status, result = msys.runInPool(pool, closure)
            print(status, result:find("failed") ~= nil)
        ]])
    end)

    it("false as third parameter", function()
        assert.are.same({ 0, "true\tresult\n", "" }, run [[
            local pool, closure = "CPU", function() return "result" end
            print(
msys.runInPool(pool, closure, false)
            )
        ]])
    end)

    it("an asynchronous call", function()
        assert.are.same({ 0, "ran\n", "" }, run [[
            local pool, closure = "CPU", function() print("ran") end
msys.runInPool(pool, closure, true)
        ]])
    end)

    it("a completion in the thread of the closure", function()
        assert.are.same({ 0, "closure\ncompletion\n", "" }, run [[
            local pool = "CPU"
            local closure = function() print("closure") end
            local completion_closure = function() print("completion") end
msys.runInPool(pool, closure, completion_closure)
        ]])
    end)

    it("a completion in the scheduler", function()
        assert.are.same({ 0, "nil\tnil\nDone!\n", "" }, run [[
status, res = msys.runInPool("IO",
  function()
    -- do some IO intensive work here, such as interrogate the message contents
    return "done"; -- passed back to the 'res' variable
  end,
  function()
    -- Completion function
    print("Done!");
  end,
  msys.core.ECTP_COMPLETE_CALLBACK_SCHED -- Complete in the scheduler
);
            print(status, res)
            msys.wait()
        ]])
    end)

    it("a function reference", function()
        assert.are.same({ 0, "doing heavy lifting\ntrue\ttrue\n", "" }, run [[
do_heavy_lifting = function()
  print("doing heavy lifting")
  return true
end
st, res = msys.runInPool('IO', do_heavy_lifting)
            print(st, res)
        ]])
    end)

    it("a function in place", function()
        assert.are.same({ 0, "doing heavy lifting\ntrue\ttrue\n", "" }, run [[
st, res = msys.runInPool('IO',
  function()
    print("doing heavy lifting")
    return true
  end
)
            print(st, res)
        ]])
    end)

    it("a marker in _OSTLS shows that another thread runs the closure and its completion", function()
        local found = run [[
            local mod = {}
            local function test(name) print("test", name) end
-- we want to validate that we ran on a different OS thread, so
-- set a marker we can use in our output
_OSTLS.async_t_marker = 42;

function mod:validate_data(msg, ac, vctx)
 msys.runInPool('CPU', function ()
 print("CPU", "in cpu", _OSTLS.async_t_marker);
 end, true);
 test('validate_data');
 return msys.core.VALIDATE_CONT;
end

function mod:validate_data_spool(msg, ac, vctx)
  msys.runInPool('CPU',
    function ()
      print("CB", "cb data spool", _OSTLS.async_t_marker);
    end,
    function ()
      print("CB", "cb completing", _OSTLS.async_t_marker);
    end
  )
end
            mod:validate_data()
            mod:validate_data_spool()
            print("main", _OSTLS.async_t_marker)
        ]]
        local lines = {}
        for line in found[2]:gmatch "[^\n]+" do
            lines[#lines + 1] = line
        end
        table.sort(lines)
        assert.are.same({
            "CB\tcb completing\tnil", "CB\tcb data spool\tnil", "CPU\tin cpu\tnil", "main\t42", "test\tvalidate_data",
        }, lines)
        assert.are.same({ 0, "" }, { found[1], found[3] })
    end)
end)
